//! Progress of reading a file, on a terminal.

use std::io::Read;

use crate::output::Format;

/// A progress bar on standard error. Hidden if standard error is not a terminal, or if the bar
/// would disturb other output.
#[derive(Debug)]
pub struct Progress {
    #[cfg(feature = "progress")]
    bar: indicatif::ProgressBar,
}

impl Progress {
    /// Creates a bar for a file with `length` bytes, or without a maximum if the length is unknown.
    #[cfg(feature = "progress")]
    pub fn new(length: Option<u64>, format: Format) -> Self {
        use std::io::{self, IsTerminal as _};

        use indicatif::{ProgressBar, ProgressStyle};

        // JSON lines on the same terminal already show progress.
        let in_the_way = format == Format::Json && io::stdout().is_terminal();
        if !io::stderr().is_terminal() || in_the_way {
            return Self { bar: ProgressBar::hidden() };
        }
        let (bar, template) = match length {
            Some(length) => (
                ProgressBar::new(length),
                "{percent}% of {total_bytes}, {bytes_per_sec}, {eta} to go",
            ),
            None => (ProgressBar::new_spinner(), "{bytes} read, {bytes_per_sec}"),
        };
        let style = ProgressStyle::with_template(template);
        Self { bar: style.map_or(bar.clone(), |style| bar.with_style(style)) }
    }

    /// Creates no bar, because this build does not support it.
    #[cfg(not(feature = "progress"))]
    pub fn new(_: Option<u64>, _: Format) -> Self {
        Self {}
    }

    /// Wraps a reader so that the bar counts its bytes.
    pub fn of<'r>(&self, input: Box<dyn Read + 'r>) -> Box<dyn Read + 'r> {
        #[cfg(feature = "progress")]
        let input = Box::new(self.bar.wrap_read(input));
        input
    }

    /// Removes the bar.
    pub fn finish(&self) {
        #[cfg(feature = "progress")]
        self.bar.finish_and_clear();
    }
}
