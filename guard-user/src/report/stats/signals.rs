//! Signals as messages. They are blocked in every thread and waited for in one, so nothing runs
//! inside a handler.

use std::{io, process, thread, time::Duration};

use nix::sys::signal::{SigSet, Signal, raise};

/// How long whoever was told to end may take.
const GRACE: Duration = Duration::from_secs(2);

/// What a screen must know of before it happens.
const SCREEN: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// Tells of the signals that concern a screen. Threads that are to be left alone by them are
/// started after this.
///
/// # Errors
/// The kernel refuses to block them.
pub(super) fn tell(mut tell: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let signals: SigSet = SCREEN.into_iter().collect();
    signals.thread_block()?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        while let Ok(signal) = signals.wait() {
            tell(signal);
            if !matches!(signal, Signal::SIGTSTP | Signal::SIGCONT) {
                // Who cannot write to a terminal that has stopped cannot end either.
                thread::sleep(GRACE);
                super::terminal::restore_modes();
                die_of(signal);
            }
        }
    })?;
    Ok(())
}

/// Ends the program with code 0 on an interrupt: it is how a stream is ended that has no end.
///
/// # Errors
/// The kernel refuses to block the signal.
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

/// Lets a signal do what it does by default, to the whole process; comes back from those that
/// only stop it.
pub(super) fn let_through(signal: Signal) {
    let signals: SigSet = [signal].into_iter().collect();
    // If any of this fails, nothing has happened, and we go on.
    if signals.thread_unblock().is_ok() {
        let _ = raise(signal);
        let _ = signals.thread_block();
    }
}

/// Ends as this signal ends a program that does not know it.
pub(super) fn die_of(signal: Signal) -> ! {
    let_through(signal);
    // It was ignored by whoever started us.
    process::exit(128 + signal as i32);
}
