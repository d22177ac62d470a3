//! Checks of the manifest, the systemd unit, and the daemon.

use super::{Check, State, listed, quoted};
use crate::{
    api::status::NodeMode,
    doctor::facts::{MachineFacts, MaybeHidden, Policy, Unit},
    text::counted,
};

pub(super) fn all(facts: &MachineFacts) -> Vec<Check> {
    let mut checks = vec![manifest(facts.policy.as_ref())];
    checks.extend(facts.unit.as_ref().map(unit));
    checks.push(daemon(facts));
    checks
}

fn manifest(policy: Option<&Policy>) -> Check {
    const ID: &str = "manifest";
    let Some(policy) = policy else {
        return Check::new(ID, State::Note, "no manifest was given").fix(
            "give it with --manifest; `trainguard init` writes a first one from a list of hosts",
        );
    };
    let path = policy.manifest.display();
    if let (count @ 1.., first) = &policy.errors {
        let first = first.as_deref().map_or_else(String::new, |first| format!(", first: {first}"));
        return Check::new(
            ID,
            State::Failed,
            format!("`{path}` has {}{first}", counted(*count, "error")),
        )
        .why("the daemon refuses it")
        .fix(format!("trainguard lint {}", quoted(&path.to_string())));
    }
    if let Some(problem) = &policy.node_problem {
        return Check::new(ID, State::Failed, problem.as_str())
            .why("the daemon cannot determine which node it guards")
            .fix("give the node's name with --node, or add this machine to the manifest");
    }
    let node = policy.node.as_deref().unwrap_or_default();
    if policy.warnings > 0 {
        let found =
            format!("`{path}`, node `{node}`; lint has {}", counted(policy.warnings, "warning"));
        return Check::new(ID, State::Note, found)
            .fix(format!("trainguard lint {}", quoted(&path.to_string())));
    }
    Check::ok(ID, format!("`{path}`, node `{node}`"))
}

fn unit(unit: &MaybeHidden<Unit>) -> Check {
    const ID: &str = "unit";
    let Unit { load, active, file } = match unit {
        MaybeHidden::Known(unit) => unit,
        MaybeHidden::Hidden(why) => {
            return Check::new(ID, State::Note, format!("not visible: {why}"));
        }
    };
    match (load.as_str(), active.as_str(), file.as_str()) {
        ("loaded", "active", "enabled") => Check::ok(ID, "trainguard.service runs and is enabled"),
        ("loaded", "active", file) => {
            Check::new(ID, State::Warning, format!("trainguard.service runs, but is {file}"))
                .why("after the next boot nothing is guarded")
                .fix("systemctl enable trainguard.service")
        }
        ("loaded", "failed", _) => Check::new(ID, State::Failed, "trainguard.service has failed")
            .why("the policy stays in force, but changes of files and interfaces have no effect")
            .fix("journalctl -u trainguard.service -n 50"),
        ("loaded", active, file) => {
            Check::new(ID, State::Note, format!("trainguard.service is {active}, and {file}"))
                .fix("systemctl enable --now trainguard.service  # once there is a manifest")
        }
        ("not-found", ..) => Check::new(ID, State::Note, "trainguard.service is not installed"),
        (load, ..) => Check::new(ID, State::Warning, format!("trainguard.service is {load}"))
            .fix("systemctl status trainguard.service"),
    }
}

fn daemon(facts: &MachineFacts) -> Check {
    const ID: &str = "daemon";
    let status = match &facts.daemon {
        MaybeHidden::Known(status) => status,
        MaybeHidden::Hidden(why) => {
            return Check::new(ID, State::Note, why.as_str())
                .fix("start the daemon; before its first start this is expected");
        }
    };
    if let Some(problem) = status.problems.first() {
        let found =
            format!("the daemon reports {}: {problem}", counted(status.problems.len(), "problem"));
        let state = if status.enforcing { State::Warning } else { State::Failed };
        return Check::new(ID, state, found).fix("trainguard status");
    }
    if !status.enforcing {
        let mode = status.mode.unwrap_or_default();
        let found = format!("the daemon runs and does not enforce (mode `{mode}`)");
        let observing = mode == NodeMode::Observe;
        let state = if observing { State::Note } else { State::Failed };
        let fix = if observing {
            "write `mode: enforce` once `trainguard stats` counts no would-drop of members"
        } else {
            "trainguard status"
        };
        return Check::new(ID, state, found).fix(fix);
    }
    let interfaces: Vec<&str> =
        status.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    Check::ok(ID, format!("enforcing on {}", listed(&interfaces)))
}
