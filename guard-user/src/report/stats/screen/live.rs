//! The event loop of the live screen: it receives keys, readings and signals, and draws.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::{Duration, Instant},
};

use nix::{poll::PollTimeout, sys::signal::Signal};
use ratatui::crossterm::event::{self, Event, KeyEvent};

use super::{
    TerminalFeatures, draw,
    view::{Effect, View},
};
use crate::report::stats::{
    model::{Model, Reading},
    signals,
    terminal::{Screen, is_closed},
};

/// An event for the loop.
#[derive(Debug)]
enum Message {
    Key(KeyEvent),
    Resized,
    Read(Box<Reading>, Instant),
    Signal(Signal),
    /// The keyboard cannot be read any more.
    KeyboardError(io::Error),
}

/// A live screen.
#[derive(Debug)]
pub struct Live {
    screen: Screen,
    messages: Receiver<Message>,
    sender: Sender<Message>,
    model: Model,
    view: View,
    look: TerminalFeatures,
    begun: Instant,
}

/// How the loop ended.
#[derive(Debug)]
enum ScreenExit {
    Quit,
    Killed(Signal),
}

impl Live {
    /// Acquires the terminal. The first reading was made just now.
    ///
    /// # Errors
    /// The terminal is not suitable.
    pub fn open(
        first: &Reading,
        manifest: Option<String>,
        look: TerminalFeatures,
    ) -> io::Result<Self> {
        let screen = Screen::open(look.color)?;
        let (sender, messages) = mpsc::channel();
        let begun = Instant::now();
        let mut model = Model::default();
        model.manifest = manifest;
        model.add(first.clone(), Duration::ZERO);
        Ok(Self { screen, messages, sender, model, view: View::default(), look, begun })
    }

    /// Shows readings until the user quits. Ends the program on a signal.
    ///
    /// # Errors
    /// The terminal cannot be written or read.
    pub fn run(
        mut self,
        interval: Duration,
        read: impl FnMut() -> Reading + Send + 'static,
    ) -> io::Result<()> {
        let sender = self.sender.clone();
        signals::forward(move |signal| {
            // Sending fails only while the program ends.
            let _ = sender.send(Message::Signal(signal));
        })?;
        listen(self.sender.clone())?;
        sample(self.sender.clone(), interval, read)?;
        let end = self.watch();
        drop(self);
        match end? {
            ScreenExit::Quit | ScreenExit::Killed(Signal::SIGINT) => Ok(()),
            ScreenExit::Killed(signal) => signals::end_by(signal),
        }
    }

    fn watch(&mut self) -> io::Result<ScreenExit> {
        self.draw()?;
        while let Ok(first) = self.messages.recv() {
            let mut stale = false;
            // All pending messages are handled before the next draw.
            let mut next = Some(first);
            while let Some(message) = next {
                match self.handle(message)? {
                    Step::ScreenExit(end) => return Ok(end),
                    Step::Draw => stale = true,
                    Step::Nothing => {}
                }
                next = self.messages.try_recv().ok();
            }
            if stale {
                self.draw()?;
            }
        }
        Ok(ScreenExit::Quit)
    }

    fn handle(&mut self, message: Message) -> io::Result<Step> {
        match message {
            Message::Key(key) => match self.view.key(&self.model, key, self.look.ascii) {
                Effect::Nothing => Ok(Step::Nothing),
                Effect::Draw => Ok(Step::Draw),
                Effect::Redraw => {
                    self.screen.forget()?;
                    Ok(Step::Draw)
                }
                Effect::Quit => Ok(Step::ScreenExit(ScreenExit::Quit)),
                Effect::Suspend => {
                    self.screen.suspend()?;
                    Ok(Step::Draw)
                }
            },
            Message::Resized => Ok(Step::Draw),
            Message::Signal(Signal::SIGTSTP) => {
                self.screen.suspend()?;
                Ok(Step::Draw)
            }
            Message::Signal(Signal::SIGCONT) => {
                self.screen.resume()?;
                Ok(Step::Draw)
            }
            Message::Signal(signal) => Ok(Step::ScreenExit(ScreenExit::Killed(signal))),
            Message::KeyboardError(error) => Err(error),
            Message::Read(reading, at) => {
                // A closed terminal may send no signal, and reading its keys then only blocks.
                if is_closed(PollTimeout::ZERO) {
                    return Err(io::Error::other("the terminal is gone"));
                }
                let trouble = self.model.trouble.clone();
                self.model.add(*reading, at.duration_since(self.begun));
                let unchanged = self.view.paused.is_some() && trouble == self.model.trouble;
                Ok(if unchanged { Step::Nothing } else { Step::Draw })
            }
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        let Self { screen, model, view, look, .. } = self;
        screen.draw(|buffer| draw(model, view, *look, buffer))
    }
}

enum Step {
    Nothing,
    Draw,
    ScreenExit(ScreenExit),
}

/// Sends keys and changes of the terminal's size to the loop.
fn listen(sender: Sender<Message>) -> io::Result<()> {
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        loop {
            let message = match event::read() {
                Ok(Event::Key(key)) => Message::Key(key),
                Ok(Event::Resize(..)) => Message::Resized,
                Ok(_) => continue,
                Err(error) => Message::KeyboardError(error),
            };
            let last = matches!(message, Message::KeyboardError(_));
            if sender.send(message).is_err() || last {
                return;
            }
        }
    })?;
    Ok(())
}

/// Reads at every interval. A slow daemon delays only this thread, not the keys.
fn sample(
    sender: Sender<Message>,
    interval: Duration,
    mut read: impl FnMut() -> Reading + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name("readings".to_owned()).spawn(move || {
        let mut next = Instant::now();
        loop {
            next = (next + interval).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
            let reading = Box::new(read());
            if sender.send(Message::Read(reading, Instant::now())).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
