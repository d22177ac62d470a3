//! The report.

use std::io::Write as _;

use anyhow::Result;
use guard_tests::wire::{
    flood::Family,
    rows::{self, Row, Spread, Target},
};

use crate::{
    measure::Sample,
    subject::{Kind, Subject},
};

const SECTION: &str = "veth";

const LEGEND: &str = "\
ns: CPU time of the receiver's NAPI thread per frame that it took from the cable, least / median /
greatest round: driver, program and page recycling. Not included: the sender, and the hardware that
a veth lacks. x: medians of ratios within a round. SYNs to a guarded port from 65,536 unlisted
sources in turn, 60 bytes (IPv6 74), in bursts of 256 with pauses, so that no queue overflows; each
burst wakes the thread, which is some 10 to 30 ns of every figure. Each case is checked to have
dropped exactly the frames that were counted (drop_all, parse_only and parse_busy drop all frames).
  drop_all    drops without reading the frame   parse_only  reads the headers as the guard does
  parse_busy  the same, and 90 additions in registers: the cost of computing here
  guard       the attached program, its counters and sampled events; N other sources are allowed
  xdp-filter  of xdp-tools, deny policy, all other ports and N sources allowed; no dispatcher
  nftables    netdev ingress, guarded port, set of N sources; device polled with GRO, no XDP
";

/// The cases, and the samples of each.
pub(crate) struct Results<'a> {
    pub(crate) subjects: &'a [Subject],
    /// Index of the subject, and the address family.
    pub(crate) cases: &'a [(usize, Family)],
    pub(crate) samples: &'a [Vec<Option<Sample>>],
}

impl Results<'_> {
    /// Returns the figures of all cases.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let cases = self.cases.iter().zip(self.samples);
        cases.flat_map(|(&(at, family), samples)| self.of_case(at, family, samples)).collect()
    }

    fn of_case(&self, at: usize, family: Family, samples: &[Option<Sample>]) -> Vec<Row> {
        let subject = &self.subjects[at];
        let case = case(subject.kind, family);
        let row = |figure, unit, spread| Row::new(SECTION, &case, figure, unit, spread);
        let values = self.ns(subject.kind, family);
        let time = row("cpu_per_frame", "ns", Spread::of(values.iter().copied()));
        if let Some(reason) = subject.missing() {
            return vec![time.note(reason)];
        }
        let rates = samples.iter().flatten().map(|sample| sample.mpps);
        let mut rows = vec![time, row("received", "Mpps", Spread::of(rates))];
        for (base, target) in subject.kind.ratios() {
            let ratios = Spread::of_ratios(&values, &self.ns(base, family));
            rows.push(row("ratio", "x", ratios).to(&self::case(base, family)).target(target));
        }
        rows
    }

    /// Returns the CPU time per frame of a case, in nanoseconds, for each round.
    fn ns(&self, kind: Kind, family: Family) -> Vec<f64> {
        let mut cases = self.cases.iter().zip(self.samples);
        let found = cases.find(|((at, of), _)| self.subjects[*at].kind == kind && *of == family);
        let samples = found.map_or(&[][..], |(_, samples)| samples);
        samples.iter().flatten().map(|sample| sample.ns).collect()
    }
}

fn case(kind: Kind, family: Family) -> String {
    format!("{} {family}", kind.name())
}

/// Prints the results as a table.
pub(crate) fn print(subjects: &[Subject], rows: &[Row]) -> Result<()> {
    let families = Family::ALL.into_iter();
    let cases = families.flat_map(|family| subjects.iter().map(move |of| (of.kind, family)));
    let header = ["case", "ns", "Mpps", "x parse_only", "x xdp-filter", "x guard"];
    let lines = cases.map(|(kind, family)| line(rows, kind, family)).collect();
    let table = rows::table(&header, lines);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{SECTION}: cost of a dropped frame for its receiver\n{table}\n\n{LEGEND}")?;
    Ok(())
}

fn line(rows: &[Row], kind: Kind, family: Family) -> Vec<String> {
    let name = case(kind, family);
    let cells = |figure: &str, base: Option<String>| {
        let mut of_case = rows.iter().filter(|row| row.case == name && row.figure == figure);
        let row = of_case.find(|row| row.ratio_to == base);
        row.map(Row::cells).unwrap_or_default().join(" ").trim_end().to_owned()
    };
    let mut line = vec![name.clone(), cells("cpu_per_frame", None), cells("received", None)];
    let bases = [Kind::ParseOnly, Kind::XdpFilter, Kind::Guard];
    line.extend(bases.map(|base| cells("ratio", Some(case(base, family)))));
    line
}

impl Kind {
    /// Returns the cases to compare with, and the expected ratios.
    fn ratios(self) -> Vec<(Self, Option<Target>)> {
        match self {
            Self::ParseOnly => vec![],
            Self::DropAll | Self::ParseBusy | Self::XdpFilter => vec![(Self::ParseOnly, None)],
            Self::Guard => vec![
                (Self::ParseOnly, Some(Target::AtMost(1.15))),
                (Self::XdpFilter, Some(Target::AtMost(0.55))),
            ],
            Self::GuardMany => vec![(Self::ParseOnly, Some(Target::AtMost(1.3)))],
            Self::Nft => {
                vec![(Self::ParseOnly, None), (Self::Guard, Some(Target::AtLeast(6.0)))]
            }
        }
    }
}
