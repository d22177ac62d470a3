//! `trainguard man`: manual pages, generated from the definition of the command line.

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::{
    cli::{Cli, ManArgs},
    exit::Exit,
    output,
    text::counted,
};

/// Runs `trainguard man`.
pub fn run(args: &ManArgs) -> Exit {
    match (&args.subcommand, &args.output) {
        (_, Some(directory)) => write_all(directory),
        (None, None) => print(main_command()),
        (Some(subcommand), None) => {
            if let Some(page) = subcommands().into_iter().find(|(name, _)| name == subcommand) {
                return print(page.1);
            }
            output::error(format_args!("there is no subcommand `{subcommand}`"));
            output::hint("`trainguard --help` lists them");
            Exit::NoAnswer
        }
    }
}

/// Returns the command of the main page, `trainguard(1)`.
fn main_command() -> Command {
    // The page lists the subcommands, and there is no page for `help`.
    Cli::command().disable_help_subcommand(true)
}

/// Returns the subcommands, each with the command that its page describes.
fn subcommands() -> Vec<(String, Command)> {
    let mut main = main_command();
    main.build();
    let shown = main.get_subcommands().filter(|subcommand| !subcommand.is_hide_set());
    let described = shown.map(|subcommand| {
        let name = subcommand.get_name().to_owned();
        let page = format!("trainguard-{name}");
        (name, subcommand.clone().display_name(page))
    });
    described.collect()
}

fn render(command: Command) -> io::Result<Vec<u8>> {
    let version = concat!("trainguard ", env!("CARGO_PKG_VERSION"));
    let mut page = Vec::new();
    Man::new(command).source(version).manual("trainguard").render(&mut page)?;
    Ok(page)
}

fn print(command: Command) -> Exit {
    match render(command) {
        Ok(page) => {
            output::answer(String::from_utf8_lossy(&page).trim_end());
            Exit::Yes
        }
        Err(error) => {
            output::error(error);
            Exit::NoAnswer
        }
    }
}

fn write_all(directory: &Path) -> Exit {
    let pages =
        subcommands().into_iter().map(|(name, page)| (format!("trainguard-{name}.1"), page));
    let pages = pages.chain([("trainguard.1".to_owned(), main_command())]);
    let mut count = 0_usize;
    for (name, command) in pages {
        let path = directory.join(name);
        let written = fs::create_dir_all(directory)
            .and_then(|()| render(command))
            .and_then(|page| fs::write(&path, page));
        if let Err(error) = written {
            output::error(format_args!("`{}`: {error}", path.display()));
            return Exit::NoAnswer;
        }
        count += 1;
    }
    let pages = counted(count, "page");
    output::message(format_args!("wrote {pages} to `{}`", directory.display()));
    Exit::Yes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_page_has_a_hidden_option() {
        let mut hidden = 0;
        for (name, mut command) in subcommands() {
            let help = command.render_long_help().to_string();
            let page = render(command.clone()).expect("a page");
            let page = String::from_utf8(page).expect("UTF-8").replace('\\', "");
            for option in command.get_arguments().filter(|option| option.is_hide_set()) {
                let flag = format!("--{}", option.get_long().expect("a flag"));
                assert!(!page.contains(&flag) && !help.contains(&flag), "{name}: {flag}");
                hidden += 1;
            }
        }
        assert!(!cfg!(feature = "daemon") || hidden > 0, "the daemon has hidden options");
    }
}
