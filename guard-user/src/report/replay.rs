//! What a replay found: a JSON line for each frame, or a summary.

use std::{collections::BTreeMap, ops::ControlFlow};

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use guard_common::{
    Silent,
    flow::Parsed,
    packet::Frame,
    parse,
    verdict::{Action, Verdict},
};
use serde::Serialize;

use crate::{capture::Captured, cli::Format, policy::compiled::CompiledPolicy, report};

/// Refused frames that are shown one by one.
const SHOWN: usize = 10;

/// A verdict as JSON. The first four fields are a contract.
#[derive(Serialize)]
struct Line<'a> {
    frame: u64,
    action: &'static str,
    reason: &'static str,
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    would_drop: bool,
}

/// What came of a replay.
#[derive(Debug)]
pub struct Summary<'a> {
    policy: &'a CompiledPolicy,
    /// Frames and bytes by verdict.
    verdicts: BTreeMap<(&'a str, &'static str, &'static str), (u64, u64)>,
    refused: Vec<String>,
    /// Frames that were not for this node.
    pub left_out: u64,
    /// Frames of lengths that the kernel does not take, judged on the host.
    pub on_host: u64,
    /// Frames that the capture had cut, filled up with zeros for the kernel.
    pub filled_up: u64,
}

impl<'a> Summary<'a> {
    /// Nothing yet.
    pub fn new(policy: &'a CompiledPolicy) -> Self {
        Self {
            policy,
            verdicts: BTreeMap::new(),
            refused: Vec::new(),
            left_out: 0,
            on_host: 0,
            filled_up: 0,
        }
    }

    /// Frames that were judged.
    pub fn frames(&self) -> u64 {
        self.verdicts.values().map(|(frames, _)| frames).sum()
    }

    /// Adds a verdict, and prints it if each is wanted. Breaks when nobody reads any more.
    pub fn add(
        &mut self,
        frame: &Captured<'_>,
        verdict: Verdict,
        format: Format,
    ) -> ControlFlow<()> {
        let service = self.policy.name_of_service(&verdict);
        let action = action(verdict.action);
        let key = (service.unwrap_or("-"), action, verdict.reason.name());
        let (frames, bytes) = self.verdicts.entry(key).or_default();
        *frames += 1;
        *bytes += u64::from(frame.wire_len);
        match format {
            Format::Json => {
                let line = Line {
                    frame: frame.number,
                    action: if verdict.passes() { "pass" } else { "drop" },
                    reason: verdict.reason.name(),
                    service,
                    would_drop: verdict.action == Action::WouldDrop,
                };
                // Names and numbers always become JSON.
                let line = serde_json::to_string(&line).unwrap_or_default();
                if !report::answer(line) {
                    return ControlFlow::Break(());
                }
            }
            Format::Text => {
                if verdict.action != Action::Pass && self.refused.len() < SHOWN {
                    self.refused.push(format!(
                        "frame {}: {}: {action}, {}{}",
                        frame.number,
                        describe(&Frame::cut(frame.bytes, frame.wire_len)),
                        verdict.reason.name(),
                        service.map(|name| format!(" by {name}")).unwrap_or_default()
                    ));
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Says what is to be said at the end.
    pub fn finish(&self, format: Format) {
        if format == Format::Text {
            report::answer(self.text());
        }
        for (count, what) in [
            (self.on_host, "too short or too long for the kernel: judged on the host"),
            (self.filled_up, "cut by the capture: filled up with zeros for the kernel"),
        ] {
            if count > 0 {
                report::talk(format_args!("note: {count} frames {what}"));
            }
        }
    }

    fn text(&self) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["service", "action", "reason", "frames", "bytes"]);
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for ((service, action, reason), (frames, bytes)) in &self.verdicts {
            table.add_row([*service, action, reason, &frames.to_string(), &bytes.to_string()]);
        }
        let mut lines: Vec<String> =
            table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
        if !self.refused.is_empty() {
            lines.push("the first that were refused:".to_owned());
            lines.extend(self.refused.iter().map(|frame| format!("  {frame}")));
        }
        let dropped: u64 = self
            .verdicts
            .iter()
            .filter(|((_, action, _), _)| *action == self::action(Action::Drop))
            .map(|(_, (frames, _))| frames)
            .sum();
        let left_out = match self.left_out {
            0 => String::new(),
            count => format!(", {count} not for this node left out"),
        };
        lines.push(format!(
            "as node `{}`: {} frames, {dropped} dropped{left_out}",
            self.policy.node,
            self.frames()
        ));
        lines.join("\n")
    }
}

/// The name of an action in tables.
pub fn action(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::WouldDrop => "would drop",
    }
}

fn describe(frame: &Frame<'_>) -> String {
    match parse(frame, &mut Silent).parsed() {
        Ok(Parsed::Flow(flow)) => {
            let source = std::net::IpAddr::from(flow.source);
            let source = std::net::SocketAddr::new(source, flow.source_port);
            format!("{source} to {}/{}", flow.transport.name(), flow.port)
        }
        Ok(Parsed::LaterFragment(source)) => {
            format!("later fragment from {}", std::net::IpAddr::from(source))
        }
        Ok(Parsed::Portless { source, protocol }) => {
            format!("IP protocol {protocol} from {}", std::net::IpAddr::from(source))
        }
        Ok(Parsed::NotIp) => "not IP".to_owned(),
        Err(_) => "not readable".to_owned(),
    }
}
