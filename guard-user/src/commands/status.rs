//! `trainguard status`: is this node guarded?

use crate::{
    cli::{Format, StatusArgs},
    daemon::{stray, view::Status},
    exit::Exit,
    kernel::sockets,
    report,
};

/// Runs the verb.
pub fn run(args: &StatusArgs) -> Exit {
    let (status, exit) = match args.ask.client().status() {
        Ok(status) if status.enforcing => (status, Exit::Yes),
        Ok(status) => (status, Exit::No),
        Err(error) => {
            report::error(&error);
            report::hint("is it running? with the same --run-dir? may you read its socket?");
            (stray::status(&args.ask.directories.bpf_dir, error.to_string()), error.exit())
        }
    };
    let status = with_commands(status);
    match args.format {
        Format::Json => report::answer_json(&status),
        Format::Text => report::status::print(&status),
    }
    exit
}

/// Who has the open ports, as far as the caller may see it.
fn with_commands(mut status: Status) -> Status {
    let inodes = status.open_ports.inodes();
    if !inodes.is_empty() {
        status.open_ports.set_commands(&sockets::commands(&inodes));
    }
    status
}
