//! `trainguard status`: reports whether this node is guarded.

use crate::{
    api::status::Status,
    cli::StatusArgs,
    daemon::offline_status,
    exit::Exit,
    netlink::sock_diag,
    output::{self, Format},
    report,
};

/// Runs `trainguard status`.
pub fn run(args: &StatusArgs) -> Exit {
    let (status, exit) = match args.daemon.client().status() {
        Ok(status) if status.enforcing => (status, Exit::Yes),
        Ok(status) => (status, Exit::No),
        Err(error) => {
            output::error(&error);
            output::hint(
                "check that the daemon runs with the same --run-dir, and that you may read its \
                 socket",
            );
            (
                offline_status::status(&args.daemon.directories.bpf_dir, error.to_string()),
                error.exit(),
            )
        }
    };
    let status = with_commands(status);
    match args.format {
        Format::Json => output::answer_json(&status),
        Format::Text => report::status::print(&status),
    }
    exit
}

/// Adds the commands that hold the open ports, as far as the caller may see them.
fn with_commands(mut status: Status) -> Status {
    let inodes = status.open_ports.inodes();
    if !inodes.is_empty() {
        status.open_ports.set_commands(&sock_diag::commands(&inodes));
    }
    status
}
