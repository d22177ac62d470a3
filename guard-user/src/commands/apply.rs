//! `trainguard apply`, `confirm`, `rollback` and `mode`: replace the policy, finally or on trial,
//! or change the modes of the policy in force.

use super::shared::load;
use crate::{
    api::{
        client::ClientError,
        control::{Apply, Consent, ModeChange, RequestedMode},
    },
    cli::{ApplyArgs, CutArgs, ModeArgs, ServiceModeArg, TrialArgs},
    exit::Exit,
    host,
    output::{self, Format},
    policy::{Disk, Loaded, resolve::signature::Signed},
    report::{
        self,
        apply::{self, ApplyOutcome, Difference},
    },
};

/// Runs `trainguard apply`: puts a policy in force.
pub fn run(args: &ApplyArgs) -> Exit {
    // The command line requires exactly one of `manifest` and reloading.
    let Some(manifest) = &args.manifest else {
        let answer = args.daemon.client().reload();
        return print_applied(answer, "the files are in force", args.format);
    };
    // The daemon reports the path of the policy, so the path must be absolute.
    let manifest = match std::path::absolute(manifest) {
        Ok(manifest) => manifest,
        Err(error) => {
            output::error(format_args!("`{}`: {error}", manifest.display()));
            return Exit::NoAnswer;
        }
    };
    let Some(mut loaded) = load::load(&manifest, &Disk) else { return Exit::NoAnswer };
    if !loaded.report.diagnostics.is_empty() {
        report::lint::explain(&loaded.report);
    }
    let signed = match Signed::read(&manifest, &Disk) {
        Ok(signed) => signed,
        Err(error) => {
            output::error(error);
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
    match args.daemon.client().apply(&apply) {
        Ok(applied) if args.dry_run => {
            let difference = match compared(applied.in_force.as_ref(), &loaded) {
                Ok(difference) => difference,
                Err(exit) => return exit,
            };
            let cut = applied.connections.all_cut();
            apply::print(&ApplyOutcome::Planned { applied, difference }, args.format);
            if cut > 0 { Exit::No } else { Exit::Yes }
        }
        Ok(applied) => {
            let was = if applied.changed { "" } else { ", as before" };
            let what = format!("in force{was}");
            apply::print(&ApplyOutcome::Done { applied, what: &what }, args.format);
            Exit::Yes
        }
        Err(error) => print_refusal(error, args.format),
    }
}

/// Compares the policy in force with the new one, as `diff` does; none if the policy in force is
/// unknown.
fn compared(
    in_force: Option<&crate::policy::Bundle>,
    new: &Loaded,
) -> Result<Option<Difference>, Exit> {
    let Some(bundle) = in_force else { return Ok(None) };
    let Some(old) = load::load(&bundle.manifest, bundle) else { return Err(Exit::NoAnswer) };
    match crate::policy::diff::compare(&old.cluster, &new.cluster) {
        Ok(difference) => {
            let clusters = [&old.cluster, &new.cluster];
            Ok(Some(Difference::new(&difference, clusters, &new.bundle.manifest)))
        }
        Err(error) => {
            output::error(error);
            Err(Exit::NoAnswer)
        }
    }
}

/// Runs `trainguard mode`: changes the mode of services.
pub fn mode(args: &ModeArgs) -> Exit {
    let mode = match args.mode {
        ServiceModeArg::Observe => RequestedMode::Observe,
        ServiceModeArg::Enforce => RequestedMode::Enforce,
        ServiceModeArg::Policy => RequestedMode::Policy,
    };
    let has_time = args.time.is_some() || args.until_changed;
    if mode == RequestedMode::Observe && !has_time {
        output::error("`mode observe` opens this node, so it needs a duration");
        output::hint("add --for 30m, or --until-changed");
        return Exit::NoAnswer;
    }
    if mode == RequestedMode::Policy && (has_time || !args.services.is_empty()) {
        output::error(
            "`mode policy` ends all mode overrides at once: it cannot be combined with --for, \
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
    match args.daemon.client().mode(&change) {
        Ok(applied) => {
            let what = match mode {
                RequestedMode::Policy => "the policy's modes".to_owned(),
                _ => format!("mode override {}", mode.name()),
            };
            apply::print(&ApplyOutcome::Done { applied, what: &what }, args.format);
            Exit::Yes
        }
        Err(error) => print_refusal(error, args.format),
    }
}

fn consent(args: &CutArgs) -> Consent {
    Consent {
        cut_connections: args.cut_connections,
        cut_own_session: args.cut_own_session,
        session: host::ssh_session().as_deref().and_then(crate::api::control::Session::parse),
    }
}

/// Runs `trainguard confirm`: keeps the policy on trial.
pub fn confirm(args: &TrialArgs) -> Exit {
    print_applied(args.daemon.client().confirm(), "confirmed, in force", args.format)
}

/// Runs `trainguard rollback`: undoes the change on trial.
pub fn roll_back(args: &TrialArgs) -> Exit {
    print_applied(args.daemon.client().roll_back(), "rolled back, in force again", args.format)
}

fn print_applied(
    answer: Result<crate::api::control::Applied, ClientError>,
    what: &str,
    format: Format,
) -> Exit {
    match answer {
        Ok(applied) => {
            apply::print(&ApplyOutcome::Done { applied, what }, format);
            Exit::Yes
        }
        Err(error) => print_refusal(error, format),
    }
}

fn print_refusal(error: ClientError, format: Format) -> Exit {
    let exit = match &error {
        // A refusal by the daemon is an answer.
        ClientError::Refused(_) => Exit::No,
        error => error.exit(),
    };
    apply::print(&ApplyOutcome::Not(error), format);
    if exit == Exit::Unreachable {
        output::hint(
            "check that the daemon runs with the same --run-dir, and that you may write to its \
             socket",
        );
    }
    exit
}
