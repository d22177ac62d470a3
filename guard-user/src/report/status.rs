//! The status as text of 80 columns, most important lines first.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use crate::{
    api::status::{InterfaceStatus, NodeMode, OpenPort, SourceKind, Status, TableStatus},
    output,
    policy::syntax::text::shown,
    text::{counted, shown_text},
};

/// Maximum width in columns.
const WIDTH: usize = 80;
/// Column at which the facts of a line begin, after its label.
const INDENT: usize = 11;
/// Maximum length in characters of a text, such as an error.
const MAX_TEXT: usize = 600;

/// Prints the status as text.
pub fn print(status: &Status) {
    output::answer(text(status));
}

fn text(status: &Status) -> String {
    let mut screen = Screen::default();
    headline(&mut screen, status);
    for problem in &status.problems {
        screen.line("problem", problem);
    }
    source(&mut screen, status);
    mode_override(&mut screen, status);
    for interface in &status.interfaces {
        screen.line("interface", &interface_line(interface));
        if let Some(remedy) = &interface.remedy {
            screen.line("", &format!("to do: {remedy}"));
        }
    }
    for service in &status.services {
        let policy = shown(&service.policy);
        screen.line("service", &format!("{}: {} ({policy})", shown(&service.name), service.mode));
        if service.forwarded_packets > 0 {
            let packets = counted(service.forwarded_packets, "packet");
            let line = format!(
                "passed {packets} for other hosts, which this node forwards and the service would \
                 refuse or charge; `forwarded: guard` in the service guards them"
            );
            screen.line("", &line);
        }
    }
    forwarded(&mut screen, status);
    open(&mut screen, status);
    if let Some(events) = &status.events {
        let line = format!(
            "{} refused frames sampled, {} not sampled; {} samples lost",
            events.emitted, events.suppressed, events.lost
        );
        screen.line("events", &line);
    }
    if status.log.suppressed > 0 || status.log.lost > 0 {
        let line = format!(
            "{} suppressed by the rate limit, {} lost because the log reader was too slow",
            counted(status.log.suppressed, "record"),
            status.log.lost
        );
        screen.line("log", &line);
    }
    let TableStatus { prefixes4, prefixes6, classes, members, source_bytes } = &status.tables;
    if status.daemon {
        let line = format!(
            "{prefixes4} IPv4 and {prefixes6} IPv6 prefixes in {classes} classes, {} KiB; \
             {members} limiter states",
            source_bytes / 1024
        );
        screen.line("tables", &line);
    }
    screen.0
}

/// Writes whether the node is guarded, by which policy, and for how long.
fn headline(screen: &mut Screen, status: &Status) {
    if !status.daemon {
        let guarded = status.interfaces.iter().filter(|interface| interface.is_guarded());
        let line = match guarded.count() {
            0 => "no guarded interface is visible to this user".to_owned(),
            count => format!(
                "{} still guarded by generation {}, policy {}",
                counted(count, "interface"),
                status.generation,
                short(&status.policy_hash)
            ),
        };
        screen.line("NO DAEMON", &line);
        return;
    }
    let state = match (status.enforcing, status.mode) {
        (true, Some(NodeMode::Mixed)) => "enforcing (some services only observe)",
        (true, _) => "enforcing",
        (false, Some(NodeMode::Observe)) => "NOT enforcing (all services only observe)",
        (false, _) => "NOT enforcing",
    };
    let line = format!(
        "{state}: node `{}` of cluster `{}`, generation {}, policy {}{}",
        shown(&status.node),
        shown(&status.cluster),
        status.generation,
        short(&status.policy_hash),
        age(status, status.in_force_since.as_deref(), " in force for ", ""),
    );
    screen.wrapped("", 4, &line);
}

/// Writes the source of the policy.
fn source(screen: &mut Screen, status: &Status) {
    let source = &status.source;
    if source.path.is_empty() {
        return;
    }
    let path = shown(&source.path);
    let what = match source.kind {
        SourceKind::LastGood => format!("the copy of the last known good policy, `{path}`"),
        SourceKind::Applied => format!("`{path}`, as applied"),
        _ => format!("`{path}`"),
    };
    let load = source.last_load.as_ref().map_or_else(String::new, |load| {
        format!("; last load: {}{}", load.result, age(status, Some(&load.time), ", ", " ago"))
    });
    let signed = source.serial.map(|serial| format!(", signed with serial number {serial}"));
    screen.line("source", &format!("{what}{}{load}", signed.unwrap_or_default()));
    if let Some(trial) = &status.trial {
        let left = Duration::from_secs(trial.seconds_left);
        let line = format!(
            "from `{}`: undone in {}, at {}, unless `trainguard confirm` keeps it",
            shown(&trial.manifest),
            humantime::format_duration(left),
            trial.deadline
        );
        screen.line("on trial", &line);
    } else if !status.up_to_date {
        let files = source.refused_files.as_deref().map(short);
        let files = files.map_or_else(String::new, |hash| format!(" (SHA-256 {hash})"));
        let line = format!("`{}` is not in force{files}", status.manifest);
        screen.line("", &line);
    }
    if source.changed {
        screen.line("", "the files have changed; they are loaded when they stop changing");
    }
}

/// Writes the override of the mode.
fn mode_override(screen: &mut Screen, status: &Status) {
    let Some(mode) = &status.mode_override else { return };
    let services: Vec<String> = mode.services.iter().map(|name| shown(name)).collect();
    let which = if services.is_empty() { "all services".to_owned() } else { services.join(", ") };
    let until = match (&mode.until, mode.seconds_left) {
        (Some(until), Some(left)) => {
            let left = humantime::format_duration(Duration::from_secs(left));
            format!("for {left} more, until {until}")
        }
        _ => "until it is changed".to_owned(),
    };
    let line = format!(
        "{which}: {}, overridden since {}, {until}; `trainguard mode policy` ends the override",
        mode.mode, mode.since
    );
    screen.line("mode", &line);
}

/// Writes the forwarded packets of the node, for information.
fn forwarded(screen: &mut Screen, status: &Status) {
    let Some(forwarded) = &status.forwarded else { return };
    if let Some(why) = &forwarded.suspended {
        screen.line("forwarded", &format!("no packet counts as forwarded: {why}"));
    }
    if forwarded.packets > 0 {
        let since = forwarded.since.as_deref().map(|since| format!(" since {since}"));
        let line = format!(
            "{} for other hosts passed services{}",
            counted(forwarded.packets, "packet"),
            since.unwrap_or_default()
        );
        screen.line("forwarded", &line);
    }
}

fn interface_line(interface: &InterfaceStatus) -> String {
    let state = interface.state.name();
    let state = if interface.is_guarded() { state.to_owned() } else { state.to_uppercase() };
    let mut line = format!("{:<15} {state}", shown(&interface.name));
    if let Some(mode) = &interface.mode {
        let _ = write!(line, ", mode {mode}");
    }
    if let Some(id) = interface.program_id {
        let _ = write!(line, ", program id {id}");
    }
    if interface.up == Some(false) {
        line.push_str(", down");
    }
    line
}

/// Writes what is not guarded, for information.
fn open(screen: &mut Screen, status: &Status) {
    if !status.unguarded.is_empty() {
        let names: Vec<String> = status.unguarded.iter().map(|name| shown(name)).collect();
        screen.line(
            "unguarded",
            &format!("up, but not selected by any pattern: {}", names.join(" ")),
        );
    }
    for tunnel in &status.tunnels {
        screen.line("tunnel", tunnel);
    }
    for port in &status.open_ports.ports {
        screen.line("open port", &open_port(port));
    }
    if status.open_ports.more > 0 {
        screen.line("", &format!("and {} more", status.open_ports.more));
    }
    if !status.open_ports.ports.is_empty() {
        screen.line(
            "",
            "(sockets of this network namespace listen there, and no service of the policy guards \
             them)",
        );
    }
    if let Some(problem) = &status.open_ports.problem {
        screen.line("open port", problem);
    }
}

fn open_port(port: &OpenPort) -> String {
    let addresses: Vec<&str> = port.addresses.iter().map(String::as_str).collect();
    let mut line = format!("{:<10} on {}, user {}", port.port, addresses.join(" "), port.uid);
    if let Some(command) = &port.command {
        let _ = write!(line, ", `{}`", shown(command));
    }
    if port.sockets > 1 {
        let _ = write!(line, ", {}", counted(port.sockets, "socket"));
    }
    line
}

fn short(hash: &str) -> String {
    if hash.is_empty() { "-".to_owned() } else { hash.chars().take(12).collect() }
}

/// Formats the age of a timestamp at the time of the status, between two words; empty if unknown.
fn age(status: &Status, since: Option<&str>, before: &str, after: &str) -> String {
    let time = |text: &str| humantime::parse_rfc3339(text).ok();
    let age = (|| {
        let now: SystemTime = time(&status.time)?;
        now.duration_since(time(since?)?).ok()
    })();
    age.map_or_else(String::new, |age| format!("{before}{}{after}", duration(age)))
}

/// Formats a duration with its two largest units.
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let largest = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(3);
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in units.iter().skip(largest).take(2) {
        let count = rest / unit;
        rest %= unit;
        if count > 0 || parts.is_empty() {
            parts.push(format!("{count} {name}"));
        }
    }
    parts.join(" ")
}

/// Text with lines of at most [`WIDTH`] columns.
#[derive(Default)]
struct Screen(String);

impl Screen {
    /// Adds a line with a label.
    fn line(&mut self, about: &str, facts: &str) {
        self.wrapped(about, INDENT, facts);
    }

    /// Adds a text, broken at spaces; all lines but the first are indented.
    fn wrapped(&mut self, about: &str, indent: usize, text: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        let mut column = 0;
        if indent == INDENT {
            let _ = write!(self.0, "{about:<INDENT$}");
            column = INDENT;
        }
        let clean: String = shown_text(text).chars().take(MAX_TEXT).collect();
        let mut first = true;
        for word in clean.split(' ') {
            let width = word.chars().count();
            if !first && column + 1 + width > WIDTH {
                let _ = write!(self.0, "\n{:indent$}", "");
                column = indent;
                first = true;
            }
            if !first {
                self.0.push(' ');
                column += 1;
            }
            self.0.push_str(word);
            column += width;
            first = false;
        }
        // Lines do not end in spaces, so that two screens can be compared.
        self.0.truncate(self.0.trim_end_matches(' ').len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        stats::Events,
        status::{
            ForwardedStatus, InterfaceState, LoadResult, LoadStatus, LogStatus, OpenPorts,
            ServiceMode, ServiceStatus, SourceStatus,
        },
    };
    use crate::attach_mode::DeviceMode;

    fn interface(name: &str, state: InterfaceState) -> InterfaceStatus {
        InterfaceStatus { name: name.to_owned(), state, ..Default::default() }
    }

    fn guarded() -> Status {
        let mut eth0 = interface("eth0", InterfaceState::Guarded);
        eth0.mode = Some(DeviceMode::Native);
        eth0.program_id = Some(812);
        eth0.up = Some(true);
        let mut status = Status {
            daemon: true,
            time: "2026-03-01T12:14:07.250Z".to_owned(),
            enforcing: true,
            mode: Some(NodeMode::Enforce),
            generation: 3,
            policy_hash: "4f2c9a1b2c3d4e5f".to_owned(),
            in_force_since: Some("2026-03-01T10:00:00.000Z".to_owned()),
            up_to_date: true,
            cluster: "demo".to_owned(),
            node: "sched-0".to_owned(),
            manifest: "/etc/trainguard/cluster.yaml".to_owned(),
            interfaces: vec![eth0],
            services: vec![ServiceStatus {
                name: "scheduler".to_owned(),
                policy: "mxnet".to_owned(),
                mode: ServiceMode::Enforce,
                forwarded_packets: 0,
            }],
            events: Some(Events { emitted: 12, suppressed: 3, lost: 0 }),
            ..Status::default()
        };
        status.source.kind = SourceKind::Files;
        status.source.path = "/etc/trainguard/cluster.yaml".to_owned();
        status.source.last_load = Some(LoadStatus {
            time: "2026-03-01T10:00:00.000Z".to_owned(),
            result: LoadResult::Success,
        });
        status
    }

    #[test]
    fn a_healthy_node_has_a_few_lines() {
        assert_eq!(
            text(&guarded()),
            "\
enforcing: node `sched-0` of cluster `demo`, generation 3, policy 4f2c9a1b2c3d
    in force for 2 h 14 min
source     `/etc/trainguard/cluster.yaml`; last load: success, 2 h 14 min ago
interface  eth0            guarded, mode native, program id 812
service    scheduler: enforce (mxnet)
events     12 refused frames sampled, 3 not sampled; 0 samples lost
tables     0 IPv4 and 0 IPv6 prefixes in 0 classes, 0 KiB; 0 limiter states"
        );
    }

    #[test]
    fn problems_come_first_and_have_a_remedy() {
        let mut status = guarded();
        status.enforcing = false;
        status.up_to_date = false;
        status.problems = vec!["eth1: another XDP program is attached, id 77".to_owned()];
        let mut eth1 = interface("eth1", InterfaceState::Failed);
        eth1.up = Some(false);
        eth1.remedy = Some("inspect it with `bpftool prog show id 77`".to_owned());
        status.interfaces.push(eth1);
        status.source.kind = SourceKind::LastGood;
        status.source.path = "/var/lib/trainguard/last-good.json".to_owned();
        status.source.last_load = None;
        status.source.refused_files = Some("0123456789abcdef".to_owned());
        status.source.changed = true;
        status.log = LogStatus { suppressed: 1, lost: 2 };
        assert_eq!(
            text(&status),
            "\
NOT enforcing: node `sched-0` of cluster `demo`, generation 3, policy
    4f2c9a1b2c3d in force for 2 h 14 min
problem    eth1: another XDP program is attached, id 77
source     the copy of the last known good policy,
           `/var/lib/trainguard/last-good.json`
           `/etc/trainguard/cluster.yaml` is not in force (SHA-256 0123456789ab)
           the files have changed; they are loaded when they stop changing
interface  eth0            guarded, mode native, program id 812
interface  eth1            FAILED, down
           to do: inspect it with `bpftool prog show id 77`
service    scheduler: enforce (mxnet)
events     12 refused frames sampled, 3 not sampled; 0 samples lost
log        1 record suppressed by the rate limit, 2 lost because the log reader
           was too slow
tables     0 IPv4 and 0 IPv6 prefixes in 0 classes, 0 KiB; 0 limiter states"
        );
    }

    #[test]
    fn forwarded_packets_are_shown_with_their_service() {
        let mut status = guarded();
        status.services[0].forwarded_packets = 12;
        status.forwarded = Some(ForwardedStatus {
            packets: 15,
            since: Some("2026-03-01T10:00:00.000Z".to_owned()),
            suspended: Some("a routing rule by mark".to_owned()),
        });
        let text = text(&status);
        let (_, rest) = text.split_once("service    ").expect("a service");
        let (listed, _) = rest.split_once("\nevents").expect("events");
        assert_eq!(
            listed,
            "scheduler: enforce (mxnet)
           passed 12 packets for other hosts, which this node forwards and the
           service would refuse or charge; `forwarded: guard` in the service
           guards them
forwarded  no packet counts as forwarded: a routing rule by mark
forwarded  15 packets for other hosts passed services since
           2026-03-01T10:00:00.000Z"
        );
        status.forwarded = Some(ForwardedStatus::default());
        status.services[0].forwarded_packets = 0;
        assert!(!super::text(&status).contains("forward"), "nothing was forwarded");
    }

    #[test]
    fn a_signed_policy_shows_its_serial_number() {
        let mut status = guarded();
        status.source.serial = Some(42);
        let text = text(&status);
        let source =
            "source     `/etc/trainguard/cluster.yaml`, signed with serial number 42; last\n";
        assert!(text.contains(source), "{text}");
    }

    #[test]
    fn unguarded_interfaces_tunnels_and_open_ports_are_listed() {
        let mut status = guarded();
        status.mode = Some(NodeMode::Mixed);
        status.unguarded = vec!["eth8".to_owned(), "eth9".to_owned()];
        status.tunnels = vec!["vx0 (vxlan, udp/4789)".to_owned()];
        let ssh = OpenPort {
            port: "tcp/22".to_owned(),
            addresses: vec!["0.0.0.0".to_owned(), "::".to_owned()],
            command: Some("ss\u{1b}[31mhd".to_owned()),
            sockets: 2,
            ..OpenPort::default()
        };
        status.open_ports = OpenPorts { ports: vec![ssh], more: 4, problem: None };
        let text = text(&status);
        let (before, rest) = text.split_once("unguarded").expect("unguarded interfaces");
        assert!(before.starts_with("enforcing (some services only observe): "), "{before}");
        let (listed, _) = rest.split_once("\nevents").expect("events");
        assert_eq!(
            listed,
            "  up, but not selected by any pattern: eth8 eth9
tunnel     vx0 (vxlan, udp/4789)
open port  tcp/22     on 0.0.0.0 ::, user 0, `ss\\u{1b}[31mhd`, 2 sockets
           and 4 more
           (sockets of this network namespace listen there, and no service of
           the policy guards them)"
        );
    }

    #[test]
    fn without_a_daemon_the_guarded_interfaces_are_shown() {
        let mut status = guarded();
        status.daemon = false;
        status.enforcing = false;
        status.source = SourceStatus::default();
        status.services.clear();
        assert_eq!(
            text(&status),
            "\
NO DAEMON  1 interface still guarded by generation 3, policy 4f2c9a1b2c3d
interface  eth0            guarded, mode native, program id 812
events     12 refused frames sampled, 3 not sampled; 0 samples lost"
        );
        status.interfaces.clear();
        assert!(text(&status).starts_with("NO DAEMON  no guarded interface"));
    }

    #[test]
    fn no_line_is_wider_than_the_screen_and_none_moves_the_cursor() {
        let mut status = guarded();
        status.problems = vec![format!("{} \u{1b}[2J\nenforcing", "a bad file ".repeat(100))];
        let text = text(&status);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(!text.lines().skip(1).any(|line| line.starts_with("enforcing")), "{text}");
        for (seconds, expected) in
            [(0, "0 s"), (61, "1 min 1 s"), (7200, "2 h"), (90_000, "1 d 1 h")]
        {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
    }
}
