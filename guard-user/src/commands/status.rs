//! `trainguard status`: is this node guarded?

use crate::{
    cli::{Format, StatusArgs},
    daemon::client,
    exit::Exit,
    kernel::pins::Pins,
    report,
};

/// Runs the verb.
pub fn run(args: &StatusArgs) -> Exit {
    match client::status(&args.directories.run_dir) {
        Ok(status) => {
            match args.format {
                Format::Json => report::answer_json(&status),
                Format::Text => report::status::print(&status),
            }
            if status.enforcing { Exit::Yes } else { Exit::No }
        }
        Err(error) => {
            report::error(&error);
            for (interface, link) in Pins::at(&args.directories.bpf_dir).links().unwrap_or_default()
            {
                if let Ok(info) = link.info()
                    && info.ifindex != 0
                {
                    report::talk(format_args!(
                        "  `{interface}` is still guarded by what an earlier daemon attached \
                         (program id {})",
                        info.program_id
                    ));
                }
            }
            report::hint("is it running? with the same --run-dir? may you read its socket?");
            Exit::Unreachable
        }
    }
}
