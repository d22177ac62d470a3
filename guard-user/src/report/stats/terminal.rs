//! The terminal: taken, drawn on, and given back, whatever happens.

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

/// Bytes of a frame that are written at once.
const FRAME: usize = 1 << 16;

/// Whether the terminal is ours at the moment.
static TERMINAL_IN_USE: AtomicBool = AtomicBool::new(false);

/// Standard output without a lock, so that it can be given back from anywhere. After a failure it
/// takes everything and writes nothing: the failure was told once.
#[derive(Debug)]
struct Output {
    dead: bool,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.dead {
            return Ok(bytes.len());
        }
        match nix::unistd::write(io::stdout(), bytes) {
            Ok(count) => Ok(count),
            Err(nix::errno::Errno::EINTR) => Err(io::ErrorKind::Interrupted.into()),
            Err(error) => {
                self.dead = true;
                Err(error.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal while it is ours. Given back when this is dropped, and by a panic.
#[derive(Debug)]
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Output>>>,
}

impl Screen {
    /// Takes the terminal of standard output.
    ///
    /// # Errors
    /// It is none, has no size, or has no keyboard.
    pub fn open(color: bool) -> io::Result<Self> {
        let (columns, lines) = size()?;
        if columns == 0 || lines == 0 {
            return Err(io::Error::other("the terminal does not tell its size"));
        }
        // Whether there are colours is decided already; what is drawn has none otherwise.
        force_color_output(color);
        give_back_on_panic();
        let output = BufWriter::with_capacity(FRAME, Output { dead: false });
        let terminal = Terminal::new(CrosstermBackend::new(output))?;
        let mut screen = Self { terminal };
        screen.take()?;
        Ok(screen)
    }

    /// Draws what has changed, at the size that the terminal has now.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| picture(frame.buffer_mut()))?;
        Ok(())
    }

    /// Forgets what is on the terminal: the next picture is drawn as a whole.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn forget(&mut self) -> io::Result<()> {
        // Not `clear`, which asks the terminal where its cursor is: the answer comes as keys do.
        let area = Rect::from((Position::ORIGIN, self.terminal.size()?));
        self.terminal.resize(area)
    }

    /// Gives the terminal back, stops until somebody lets us go on, and takes it again.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn suspend(&mut self) -> io::Result<()> {
        restore();
        signals::let_through(Signal::SIGTSTP);
        self.resume()
    }

    /// Takes the terminal again after somebody else had it.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn resume(&mut self) -> io::Result<()> {
        // The modes that are to come back are those that it has now.
        restore_modes();
        self.take()?;
        self.forget()
    }

    fn take(&mut self) -> io::Result<()> {
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

/// Gives the terminal back as it was, once, from any thread.
pub fn restore() {
    if !TERMINAL_IN_USE.swap(false, Ordering::SeqCst) {
        return;
    }
    restore_modes();
    let mut bytes = Vec::new();
    if queue!(bytes, ResetColor, LeaveAlternateScreen, Show).is_ok() {
        // If this fails there is nobody left to see it.
        let _ = nix::unistd::write(io::stdout(), &bytes);
    }
}

/// Echo, lines and signals as they were: what can be given back without writing.
pub(super) fn restore_modes() {
    let _ = disable_raw_mode();
}

/// Whether the other end of standard output is gone: its reader, or the terminal.
pub fn is_closed(timeout: PollTimeout) -> bool {
    let stdout = io::stdout();
    let mut waited = [PollFd::new(std::os::fd::AsFd::as_fd(&stdout), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    poll(&mut waited, timeout).is_ok()
        && waited[0].revents().is_some_and(|events| events.intersects(gone))
}

/// A panic aborts, and drops nothing: its message is to be read on a terminal that is in order.
fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
        }));
    });
}
