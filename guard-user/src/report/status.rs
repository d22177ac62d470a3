//! The status, for people.

use crate::{
    daemon::view::{Status, TableStatus},
    report,
};

/// Prints it.
pub fn print(status: &Status) {
    report::answer(text(status));
}

fn text(status: &Status) -> String {
    let mut lines = Vec::new();
    let state = if status.enforcing { "enforcing" } else { "NOT enforcing" };
    lines.push(format!(
        "{state}: node `{}` of cluster `{}`, generation {}, policy {}",
        status.node,
        status.cluster,
        status.generation,
        status.policy_hash.get(..12).unwrap_or(&status.policy_hash)
    ));
    for interface in &status.interfaces {
        let mode = interface.mode.as_deref().unwrap_or("-");
        let id = interface.program_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        lines.push(format!(
            "  interface {:<15} {:<9} mode {mode}, program id {id}",
            interface.name, interface.state
        ));
    }
    for service in &status.services {
        let name = format!("{} ({})", service.name, service.policy);
        lines.push(format!("  service   {name:<25} {}", service.mode));
    }
    let TableStatus { prefixes4, prefixes6, classes, members, source_bytes } = &status.tables;
    lines.push(format!(
        "  tables    {prefixes4} IPv4 and {prefixes6} IPv6 prefixes in {classes} classes, \
         {} KiB; {members} limiter states",
        source_bytes / 1024
    ));
    for tunnel in &status.tunnels {
        lines.push(format!("  tunnel    {tunnel}"));
    }
    if !status.unguarded.is_empty() {
        lines.push(format!("  unguarded {}", status.unguarded.join(" ")));
    }
    if let Some(trial) = &status.trial {
        lines.push(format!(
            "  on trial  from {}: undone in {} (at {}) unless `trainguard confirm` keeps it",
            report::lint::shown_text(&trial.manifest),
            humantime::format_duration(std::time::Duration::from_secs(trial.seconds_left)),
            trial.deadline
        ));
    } else if !status.up_to_date {
        lines.push(format!(
            "  `{}` is not what is running; the last good policy is in force",
            status.manifest
        ));
    }
    lines.extend(status.problems.iter().map(|problem| format!("  problem   {problem}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::view::InterfaceStatus;

    #[test]
    fn a_node_that_is_not_guarded_is_told_so_first() {
        let status = Status {
            node: "sched-0".to_owned(),
            interfaces: vec![InterfaceStatus {
                name: "eth9".to_owned(),
                state: "missing".to_owned(),
                ..InterfaceStatus::default()
            }],
            problems: vec!["eth9: there is no such interface".to_owned()],
            ..Status::default()
        };
        let text = text(&status);
        assert!(text.starts_with("NOT enforcing: node `sched-0`"), "{text}");
        assert!(text.contains("eth9") && text.contains("missing"), "{text}");
    }
}
