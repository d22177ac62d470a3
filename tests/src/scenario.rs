//! Scenarios: frames with the verdicts and counters that they must give, as data in `tests/corpus/`.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde::Deserialize;

use crate::{
    backend::{Backend, Counts, describe, hex},
    text, world,
};
use guard_user::policy::compiled::CompiledPolicy;

/// A file of scenarios.
pub type File = Vec<Scenario>;

/// One scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The property that the scenario shows.
    pub name: String,
    /// Why it matters.
    #[serde(default)]
    pub story: String,
    /// Name of the world, see [`crate::world`].
    pub world: String,
    /// The frames to send, in order.
    pub frames: Vec<Sent>,
    /// Maps each verdict whose counter changes to `N frames M bytes`. All other counters must not
    /// change.
    pub moved: BTreeMap<String, String>,
}

/// A frame, or several equal ones.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sent {
    /// The frame, see [`crate::text`].
    pub send: String,
    /// Time in microseconds after the start of the scenario.
    #[serde(default)]
    pub at_us: u64,
    /// How many times the frame is sent.
    #[serde(default = "once")]
    pub times: u32,
    /// The expected verdict on each: `drop not_allowed scheduler`.
    pub expect: String,
}

fn once() -> u32 {
    1
}

/// Reads the scenarios of a file.
pub fn read(path: &Path) -> File {
    let file: File = world::yaml(path);
    for scenario in &file {
        assert!(!scenario.frames.is_empty(), "{}: no frames", scenario.name);
    }
    file
}

impl Scenario {
    /// Reports whether a back end can take all of the scenario's frames.
    pub fn fits(&self, backend: &impl Backend) -> bool {
        self.frames.iter().all(|sent| backend.takes(&self.frame(sent)))
    }

    fn frame(&self, sent: &Sent) -> Vec<u8> {
        text::frame(&sent.send)
            .unwrap_or_else(|error| panic!("{}: {}: {error:#}", self.name, sent.send))
    }

    /// Plays the scenario and returns the deviations. `start_ns` must be late enough after the previous
    /// scenario that all buckets are full again.
    pub fn play(
        &self,
        policy: &CompiledPolicy,
        backend: &mut impl Backend,
        start_ns: u64,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let before = backend.counts();
        for sent in &self.frames {
            let frame = self.frame(sent);
            for nth in 1..=sent.times {
                let verdict = backend.evaluate(&frame, start_ns + sent.at_us * 1000);
                let verdict = describe(policy, verdict);
                if verdict != sent.expect {
                    let Sent { send, expect, .. } = sent;
                    let hex = hex(&frame);
                    wrong.push(format!(
                        "no. {nth} of `{send}` ({hex}): {verdict}, expected {expect}"
                    ));
                }
            }
        }
        let moved = difference(&before, &backend.counts());
        if moved != self.moved {
            let mut lines = "counters moved:".to_owned();
            for (verdict, amount) in &moved {
                write!(lines, "\n      {verdict}: {amount}").expect("a string takes it");
            }
            wrong.push(lines);
        }
        wrong.iter().map(|line| format!("{}: {line}", self.name)).collect()
    }
}

fn difference(before: &Counts, after: &Counts) -> BTreeMap<String, String> {
    let moved = after.iter().filter_map(|(verdict, (packets, bytes))| {
        let (packets_before, bytes_before) = before.get(verdict).copied().unwrap_or_default();
        let (packets, bytes) = (packets - packets_before, bytes - bytes_before);
        (packets != 0).then(|| (verdict.clone(), format!("{packets} frames {bytes} bytes")))
    });
    moved.collect()
}
