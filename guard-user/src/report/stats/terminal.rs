//! The terminal: acquired, drawn on, and restored in every case.

use std::{
    io::{self, BufWriter, Write},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use ratatui::{
    Terminal,
    backend::CrosstermBackend,
    buffer::Buffer,
    crossterm::{
        cursor::Show,
        queue,
        style::{ResetColor, force_color_output},
        terminal::{
            EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
        },
    },
    layout::{Position, Rect},
};

use super::signals;

/// Size in bytes of the buffer for a frame.
const FRAME: usize = 1 << 16;

/// Whether the program has changed the terminal's state.
static TERMINAL_IN_USE: AtomicBool = AtomicBool::new(false);

/// Standard output without a lock, so that any thread can restore the terminal. After the first
/// error, which is reported, it discards everything.
#[derive(Debug)]
struct Output {
    failed: bool,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failed {
            return Ok(bytes.len());
        }
        match nix::unistd::write(io::stdout(), bytes) {
            Ok(count) => Ok(count),
            Err(nix::errno::Errno::EINTR) => Err(io::ErrorKind::Interrupted.into()),
            Err(error) => {
                self.failed = true;
                Err(error.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal while the screen uses it. Restored when this is dropped, and on a panic.
#[derive(Debug)]
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Output>>>,
}

impl Screen {
    /// Acquires the terminal of standard output.
    ///
    /// # Errors
    /// Standard output is not a terminal, or the terminal has no size or no keyboard.
    pub fn open(color: bool) -> io::Result<Self> {
        let (columns, lines) = size()?;
        if columns == 0 || lines == 0 {
            return Err(io::Error::other("the terminal does not report its size"));
        }
        // The caller has decided about colours; without them, what is drawn has none.
        force_color_output(color);
        restore_on_panic();
        let output = BufWriter::with_capacity(FRAME, Output { failed: false });
        let terminal = Terminal::new(CrosstermBackend::new(output))?;
        let mut screen = Self { terminal };
        screen.acquire()?;
        Ok(screen)
    }

    /// Draws what has changed, at the current size of the terminal.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| picture(frame.buffer_mut()))?;
        Ok(())
    }

    /// Forces the next draw to redraw the whole screen.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn forget(&mut self) -> io::Result<()> {
        // Not `clear`, which asks the terminal for the cursor position: the response would arrive
        // among the keys.
        let area = Rect::from((Position::ORIGIN, self.terminal.size()?));
        self.terminal.resize(area)
    }

    /// Restores the terminal, stops the program until it is continued, and acquires the terminal
    /// again.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn suspend(&mut self) -> io::Result<()> {
        restore();
        signals::apply_default(Signal::SIGTSTP);
        self.resume()
    }

    /// Acquires the terminal again after another program used it.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resume(&mut self) -> io::Result<()> {
        // The current modes of the terminal are the ones to restore later.
        restore_modes();
        self.acquire()?;
        self.forget()
    }

    fn acquire(&mut self) -> io::Result<()> {
        TERMINAL_IN_USE.store(true, Ordering::SeqCst);
        enable_raw_mode()?;
        let output = self.terminal.backend_mut();
        queue!(output, EnterAlternateScreen)?;
        Write::flush(output)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal, once, from any thread.
pub fn restore() {
    if !TERMINAL_IN_USE.swap(false, Ordering::SeqCst) {
        return;
    }
    restore_modes();
    let mut bytes = Vec::new();
    if queue!(bytes, ResetColor, LeaveAlternateScreen, Show).is_ok() {
        // If this fails, the terminal is gone.
        let _ = nix::unistd::write(io::stdout(), &bytes);
    }
}

/// Restores the terminal's modes (echo, line editing, signals), which needs no writing.
pub(super) fn restore_modes() {
    let _ = disable_raw_mode();
}

/// Reports whether the other end of standard output is closed: the reader of a pipe, or the
/// terminal.
pub fn is_closed(timeout: PollTimeout) -> bool {
    let stdout = io::stdout();
    let mut waited = [PollFd::new(std::os::fd::AsFd::as_fd(&stdout), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    poll(&mut waited, timeout).is_ok()
        && waited[0].revents().is_some_and(|events| events.intersects(gone))
}

/// Restores the terminal on a panic, before the message is printed: a panic aborts, and drops
/// nothing.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}
