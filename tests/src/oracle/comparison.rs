//! Sends the same cases to three nodes and compares what they deliver.

use std::{
    thread,
    time::{Duration, Instant},
};

use guard_common::Verdict;
use guard_user::policy::compiled::CompiledPolicy;
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use super::{
    classes,
    generate::{self, Case},
    lab::{Allow, Lab, Reached, Seen},
    report::{Fault, Report},
    settings::Settings,
};
use crate::backend::{Backend as _, Host, describe};

/// Number of cases in a batch.
const CASES: u32 = 60;
/// Number of acknowledgements of SYN cookies in a batch.
const COOKIES: u32 = 6;
/// Number of batches between two changes of the settings.
const BATCHES: u32 = 40;
/// How often a lost case is sent again alone before it counts.
const ATTEMPTS: u32 = 3;
/// Time after which the kernel has given up a packet of which a fragment is missing (`settings.rs`).
const FRAGMENTS_END: Duration = Duration::from_millis(1_200);

/// Three nodes, and the policy of the open one.
#[derive(Debug)]
pub struct Comparison {
    bare: Lab,
    closed: Lab,
    open: Lab,
    policy: CompiledPolicy,
    report: Report,
}

impl Comparison {
    /// Sets up the nodes, with guards in this mode and the policies of the closed and the open node.
    /// Returns `None`, and records the skip, if this machine cannot.
    pub fn new(test: &str, mode: &str, policies: [Allow; 2], seed: u64) -> Option<Self> {
        let bare = Lab::new(test)?;
        let mut closed = Lab::new(test)?;
        closed.guard(mode, policies[0]);
        let mut open = Lab::new(test)?;
        open.guard(mode, policies[1]);
        let policy = policies[1].compile();
        Some(Self { bare, closed, open, policy, report: Report::new(mode, seed) })
    }

    /// Sends cases for this long. Returns the report.
    pub fn run(mut self, time: Duration) -> Report {
        // A thread of its own, on one CPU: frames that a veth receives are queued by CPU, so only there
        // they stay in order.
        let thread = thread::spawn(move || {
            pin();
            let deadline = Instant::now() + time;
            let mut batch = 0;
            while Instant::now() < deadline {
                self.batch(batch);
                batch += 1;
            }
            self.report.forwarded = self.closed.forwarded();
            self.report
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sends the cases of one batch.
    fn batch(&mut self, batch: u32) {
        let seed = self.report.seed;
        let round = (batch / BATCHES) as usize;
        let settings = Settings::ALL[round % Settings::ALL.len()];
        let numbers = batch.wrapping_mul(CASES + COOKIES)..;
        let mut cases = self.acknowledgements(numbers.clone().take(COOKIES as usize));
        let known = cases.len();
        for number in numbers.skip(COOKIES as usize).take(CASES as usize) {
            cases.push(generate::case(seed, number));
        }
        for lab in [&mut self.bare, &mut self.closed, &mut self.open] {
            lab.set(settings);
        }
        let [bare, closed, open] =
            [&mut self.bare, &mut self.closed, &mut self.open].map(|lab| lab.deliver(&cases));
        let cookies = cases[..known].iter().filter(|case| bare.accepted(case)).count();
        self.report.cookies += cookies as u64;
        for case in &cases {
            self.report.cases += 1;
            self.judge_closed(case, settings, closed.reached(case));
            self.judge_open(case, settings, bare.reached(case), &open);
        }
        if let Some(data) = closed.unnumbered.first() {
            self.judge_unnumbered(&cases, settings, data);
        }
    }

    /// Records data that reached the closed node without the number of its case, whose data was cut.
    /// Sends the cases one by one to find it.
    fn judge_unnumbered(&mut self, cases: &[Case], settings: Settings, data: &[u8]) {
        let found = cases.iter().find(|case| !self.closed.deliver([*case]).unnumbered.is_empty());
        let what = match found {
            Some(_) => "closed: Delivered, cut".to_owned(),
            None => format!("closed: {data:02x?} delivered, by a case up to this one"),
        };
        if let Some(case) = found.or(cases.last()).cloned() {
            self.report.fault(Fault { what, settings, case });
        }
    }

    /// Requests SYN cookies from the bare node and returns cases that acknowledge them. The cookies are
    /// those that the other nodes would send, because addresses and ports are the same and the kernel
    /// has one secret (`syncookie_secret`, `net/ipv4/syncookies.c`).
    fn acknowledgements(&mut self, numbers: impl Iterator<Item = u32>) -> Vec<Case> {
        let seed = self.report.seed;
        let requests: Vec<Case> = numbers.map(|number| generate::request(seed, number)).collect();
        for lab in [&mut self.closed, &mut self.open] {
            lab.request_cookies(&[]);
        }
        let answered = self.bare.request_cookies(&requests);
        let acknowledged = requests.iter().filter_map(|request| {
            let cookie = answered.cookie(request)?;
            Some(generate::acknowledgement(seed, request.number, cookie))
        });
        acknowledged.collect()
    }

    fn judge_closed(&mut self, case: &Case, settings: Settings, reached: Reached) {
        if reached > Reached::Nothing {
            let what = format!("closed: {reached:?}");
            self.report.fault(Fault { what, settings, case: case.clone() });
        }
    }

    fn judge_open(&mut self, case: &Case, settings: Settings, bare: Reached, open: &Seen) {
        match bare {
            Reached::Delivered => self.report.delivered += 1,
            Reached::Answered => self.report.answered += 1,
            Reached::Nothing => {}
        }
        let reached = open.reached(case);
        self.report.more += u64::from(reached > bare);
        if reached >= bare {
            return;
        }
        let verdicts = self.verdicts(case);
        if let Some(class) = classes::explaining(&case.facts, &verdicts) {
            *self.report.lost.entry(class.name).or_default() += 1;
            return;
        }
        // The cable or a busy machine may have lost it. After a few faults the result is known.
        let attempts = if self.report.is_known() { 0 } else { ATTEMPTS };
        for _ in 0..attempts {
            if case.facts.fragmented {
                thread::sleep(FRAGMENTS_END);
            }
            if self.open.deliver([case]).reached(case) >= bare {
                self.report.again += 1;
                return;
            }
        }
        let verdicts: Vec<String> =
            verdicts.iter().map(|verdict| describe(&self.policy, *verdict)).collect();
        let what = format!("open: {reached:?}, bare: {bare:?}, verdicts {verdicts:?}");
        self.report.fault(Fault { what, settings, case: case.clone() });
    }

    /// Returns the host's verdicts on the frames of a case, by the policy of the open node.
    fn verdicts(&self, case: &Case) -> Vec<Verdict> {
        let mut host = Host::new(&self.policy);
        case.frames.iter().map(|frame| host.evaluate(frame, 0)).collect()
    }
}

/// Keeps this thread on its CPU.
fn pin() {
    let mut only = CpuSet::new();
    let cpu = sched_getcpu().expect("a CPU");
    only.set(cpu).expect("a CPU of this machine");
    sched_setaffinity(Pid::from_raw(0), &only).expect("a CPU of this process");
}
