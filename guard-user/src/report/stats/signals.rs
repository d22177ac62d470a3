//! Signals as messages. They are blocked in every thread, and one thread waits for them, so no code
//! runs in a signal handler.

use std::{io, process, thread, time::Duration};

use nix::sys::signal::{SigSet, Signal, raise};

/// Time that the program has to end by itself after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// Signals that the live screen must handle before they take effect.
const SCREEN: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Calls `forward` for each signal that the live screen handles. Threads that must not receive these
/// signals are started after this call.
///
/// # Errors
/// The kernel refuses to block them, or the thread cannot be started.
pub(super) fn forward(mut forward: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let signals: SigSet = SCREEN.into_iter().collect();
    signals.thread_block()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            forward(signal);
            if !matches!(signal, Signal::SIGTSTP | Signal::SIGCONT) {
                // A thread that is blocked writing to a stopped terminal cannot end the program.
                thread::sleep(GRACE);
                super::terminal::restore_modes();
                end_by(signal);
            }
        }
    })?;
    Ok(())
}

/// Ends the program with code 0 on an interrupt, which is the usual end of an endless stream.
///
/// # Errors
/// The kernel refuses to block the signal, or the thread cannot be started.
pub(super) fn end_on_interrupt() -> io::Result<()> {
    let signals: SigSet = [Signal::SIGINT].into_iter().collect();
    signals.thread_block()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if signals.wait().is_ok() {
            process::exit(0);
        }
    })?;
    Ok(())
}

/// Gives a signal its default effect on the whole process. Returns if the signal only stops it.
pub(super) fn apply_default(signal: Signal) {
    let signals: SigSet = [signal].into_iter().collect();
    // If any of this fails, the signal has no effect, and the program goes on.
    if signals.thread_unblock().is_ok() {
        let _ = raise(signal);
        let _ = signals.thread_block();
    }
}

/// Ends the program as the signal does by default.
pub(super) fn end_by(signal: Signal) -> ! {
    apply_default(signal);
    // Reached only if the parent process had set the signal to be ignored.
    process::exit(128 + signal as i32);
}
