//! How far reading a file is, on a terminal.

use std::io::Read;

use crate::output::Format;

/// A bar on standard error, if somebody looks at that and it is in nobody's way.
#[derive(Debug)]
pub struct Progress {
    #[cfg(feature = "progress")]
    bar: indicatif::ProgressBar,
}

impl Progress {
    /// Of a file of so many bytes; none if that is not known.
    #[cfg(feature = "progress")]
    pub fn new(length: Option<u64>, format: Format) -> Self {
        use std::io::{self, IsTerminal as _};

        use indicatif::{ProgressBar, ProgressStyle};

        // Lines that come as the frames do are their own sign of progress.
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

    /// This build shows none.
    #[cfg(not(feature = "progress"))]
    pub fn new(_: Option<u64>, _: Format) -> Self {
        Self {}
    }

    /// Counts what is read.
    pub fn of<'r>(&self, input: Box<dyn Read + 'r>) -> Box<dyn Read + 'r> {
        #[cfg(feature = "progress")]
        let input = Box::new(self.bar.wrap_read(input));
        input
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        #[cfg(feature = "progress")]
        self.bar.finish_and_clear();
    }
}
