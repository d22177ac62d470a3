//! `trainguard apply`, `confirm`, `rollback`, `mode`: another policy now, for good or on trial, or
//! other modes of the one in force.

use super::offline;
use crate::{
    cli::{ApplyArgs, CutArgs, ModeArgs, SettleArgs, WishArg},
    daemon::{
        client::ClientError,
        connections::Consent,
        mode::{ModeChange, Wish},
        server::Apply,
        signature::Signed,
    },
    exit::Exit,
    machine,
    policy::{Disk, Loaded},
    report::{
        self,
        applied::{Answer, Difference},
    },
};

/// Puts a policy into force.
pub fn run(args: &ApplyArgs) -> Exit {
    // One of both, says the command line.
    let Some(manifest) = &args.manifest else {
        let answer = args.ask.client().reload();
        return settle(answer, "the files are in force", args.format);
    };
    // Absolute: the daemon tells where the policy came from.
    let manifest = match std::path::absolute(manifest) {
        Ok(manifest) => manifest,
        Err(error) => {
            report::error(format_args!("`{}`: {error}", manifest.display()));
            return Exit::NoAnswer;
        }
    };
    let Some(mut loaded) = offline::load(&manifest, &Disk) else { return Exit::NoAnswer };
    if !loaded.report.diagnostics.is_empty() {
        report::lint::explain(&loaded.report);
    }
    let signed = match Signed::read(&manifest, &Disk) {
        Ok(signed) => signed,
        Err(error) => {
            report::error(error);
            return Exit::NoAnswer;
        }
    };
    let apply = Apply {
        signed,
        bundle: std::mem::take(&mut loaded.bundle),
        confirm_within: args.confirm_within.map(|within| within.as_secs()),
        dry_run: args.dry_run,
        consent: consent(&args.cut),
    };
    match args.ask.client().apply(&apply) {
        Ok(applied) if args.dry_run => {
            let difference = match compared(applied.in_force.as_ref(), &loaded) {
                Ok(difference) => difference,
                Err(exit) => return exit,
            };
            let cut = applied.connections.cut.connections;
            report::applied::print(&Answer::Planned { applied, difference }, args.format);
            if cut > 0 { Exit::No } else { Exit::Yes }
        }
        Ok(applied) => {
            let was = if applied.changed { "" } else { ", as before" };
            let what = format!("in force{was}");
            report::applied::print(&Answer::Done { applied, what: &what }, args.format);
            Exit::Yes
        }
        Err(error) => refuse(error, args.format),
    }
}

/// What a policy changes, as `diff` tells it; none if what is in force is not known.
fn compared(
    in_force: Option<&crate::policy::Bundle>,
    new: &Loaded,
) -> Result<Option<Difference>, Exit> {
    let Some(bundle) = in_force else { return Ok(None) };
    let Some(old) = offline::load(&bundle.manifest, bundle) else { return Err(Exit::NoAnswer) };
    match crate::policy::diff::compare(&old.cluster, &new.cluster) {
        Ok(difference) => Ok(Some(Difference::new(&difference, &old.cluster, &new.cluster))),
        Err(error) => {
            report::error(error);
            Err(Exit::NoAnswer)
        }
    }
}

/// Changes the mode of services.
pub fn mode(args: &ModeArgs) -> Exit {
    let mode = match args.mode {
        WishArg::Observe => Wish::Observe,
        WishArg::Enforce => Wish::Enforce,
        WishArg::Policy => Wish::Policy,
    };
    let has_time = args.time.is_some() || args.until_changed;
    if mode == Wish::Observe && !has_time {
        report::error("`mode observe` opens this node: say for how long");
        report::hint("--for 30m, or --until-changed");
        return Exit::NoAnswer;
    }
    if mode == Wish::Policy && (has_time || !args.services.is_empty()) {
        report::error(
            "`mode policy` ends all that was set by hand, at once: it takes no --for, \
                       --until-changed or --service",
        );
        return Exit::NoAnswer;
    }
    let change = ModeChange {
        mode,
        services: args.services.clone(),
        seconds: args.time.map(|time| time.as_secs()),
        consent: consent(&args.cut),
    };
    match args.ask.client().mode(&change) {
        Ok(applied) => {
            let what = match mode {
                Wish::Policy => "the policy's modes".to_owned(),
                _ => format!("{}, by hand", mode.name()),
            };
            report::applied::print(&Answer::Done { applied, what: &what }, args.format);
            Exit::Yes
        }
        Err(error) => refuse(error, args.format),
    }
}

fn consent(args: &CutArgs) -> Consent {
    Consent {
        cut_connections: args.cut_connections,
        cut_own_session: args.cut_own_session,
        session: machine::ssh_session().as_deref().and_then(crate::daemon::cuts::Session::parse),
    }
}

/// Keeps what is on trial.
pub fn confirm(args: &SettleArgs) -> Exit {
    settle(args.ask.client().confirm(), "confirmed, in force", args.format)
}

/// Undoes what is on trial.
pub fn roll_back(args: &SettleArgs) -> Exit {
    settle(args.ask.client().roll_back(), "undone, in force again", args.format)
}

fn settle(
    answer: Result<crate::daemon::server::Applied, ClientError>,
    what: &str,
    format: crate::cli::Format,
) -> Exit {
    match answer {
        Ok(applied) => {
            report::applied::print(&Answer::Done { applied, what }, format);
            Exit::Yes
        }
        Err(error) => refuse(error, format),
    }
}

fn refuse(error: ClientError, format: crate::cli::Format) -> Exit {
    let exit = match &error {
        // That the daemon will not is an answer.
        ClientError::Refused(_) => Exit::No,
        error => error.exit(),
    };
    report::applied::print(&Answer::Not(error), format);
    if exit == Exit::Unreachable {
        report::hint("is it running? with the same --run-dir? may you write to its socket?");
    }
    exit
}
