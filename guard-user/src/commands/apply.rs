//! `trainguard apply`, `confirm`, `rollback`: another policy now, for good or on trial.

use super::offline;
use crate::{
    cli::{ApplyArgs, SettleArgs},
    daemon::{
        client::{self, ClientError},
        server::{Applied, Apply},
    },
    exit::Exit,
    policy::Disk,
    report,
};

/// Puts a policy into force.
pub fn run(args: &ApplyArgs) -> Exit {
    // One of both, says the command line.
    let Some(manifest) = &args.manifest else {
        return settle(client::reload(&args.directories.run_dir), "the files are in force");
    };
    // Absolute: the daemon tells where the policy came from.
    let manifest = match std::path::absolute(manifest) {
        Ok(manifest) => manifest,
        Err(error) => {
            report::error(format_args!("`{}`: {error}", manifest.display()));
            return Exit::NoAnswer;
        }
    };
    let Some(loaded) = offline::load(&manifest, &Disk) else { return Exit::NoAnswer };
    if !loaded.report.diagnostics.is_empty() {
        report::lint::explain(&loaded.report);
    }
    let confirm_within = args.confirm_within.map(|within| within.as_secs());
    let apply = Apply { bundle: loaded.bundle, confirm_within };
    match client::apply(&args.directories.run_dir, &apply) {
        Ok(applied) => {
            let was = if applied.changed { "" } else { ", as before" };
            tell(&applied, &format!("in force{was}"));
            if let Some(trial) = &applied.trial {
                report::talk(format_args!(
                    "on trial: undone at {} unless `trainguard confirm` keeps it; `trainguard \
                     rollback` undoes it now",
                    trial.deadline
                ));
                report::hint("confirm from a new connection: the one that you have may be old");
            }
            Exit::Yes
        }
        Err(error) => refuse(&error),
    }
}

/// Keeps what is on trial.
pub fn confirm(args: &SettleArgs) -> Exit {
    settle(client::confirm(&args.directories.run_dir), "confirmed, in force")
}

/// Undoes what is on trial.
pub fn roll_back(args: &SettleArgs) -> Exit {
    settle(client::roll_back(&args.directories.run_dir), "undone, in force again")
}

fn settle(answer: Result<Applied, ClientError>, what: &str) -> Exit {
    match answer {
        Ok(applied) => {
            tell(&applied, what);
            Exit::Yes
        }
        Err(error) => refuse(&error),
    }
}

fn tell(applied: &Applied, what: &str) {
    let hash = applied.policy_hash.get(..12).unwrap_or(&applied.policy_hash);
    report::answer(format_args!("{what}: generation {}, policy {hash}", applied.generation));
    for problem in &applied.problems {
        report::talk(format_args!("note: {}", report::lint::shown_text(problem)));
    }
}

fn refuse(error: &ClientError) -> Exit {
    report::error(error);
    let exit = error.exit();
    if exit == Exit::Unreachable {
        report::hint("is it running? with the same --run-dir? may you write to its socket?");
    }
    // That the daemon will not is an answer.
    if matches!(error, ClientError::Refused(_)) { Exit::No } else { exit }
}
