//! `trainguard learn`

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{learn::draft::Aggregate, output::Format};

/// `trainguard learn`
#[derive(Debug, Args)]
#[command(after_help = "\
Capture both directions at the node, from before the job starts: `tcpdump -i eth0 -s 128 -w FILE`. A \
contact counts if the source opened it, the node answered, and data went both ways. What the policy \
allows already is only told. For ports that no service guards, a service is proposed: members are \
allowed by a role of theirs, others as exact hosts in a network of the manifest. For sources that a \
service refuses, the entry of the manifest that admits them. Who tries many ports in vain, who is never \
answered, and addresses that cannot be true are left out, and told with the reason.

Without --capture, the events of the daemon on this node: samples of what services that observe would \
refuse. They hold no answers; who is in the middle of a connection in two of them counts.

Everything is printed and nothing applied. New services observe; `enforce` is yours to write.

Exit codes: 0 done, also if there is nothing to propose, 2 no answer possible, 3 no \
daemon")]
pub struct LearnArgs {
    /// The cluster manifest
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Which node of the manifest the capture is of [default: found by host name, then by address]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// A capture of Ethernet frames, pcap or pcapng, or what `events` prints into a pipe; `-` is
    /// standard input [default: the events that the daemon has]
    #[cfg(feature = "daemon")]
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// A capture of Ethernet frames, pcap or pcapng, or what `events` prints into a pipe; `-` is
    /// standard input
    #[cfg(not(feature = "daemon"))]
    #[arg(long, value_name = "FILE")]
    pub capture: PathBuf,
    /// Of the daemon's events only those since then: so long ago (10m, 2h), or a time in UTC (14:05,
    /// 2026-01-31T14:05:00Z)
    #[cfg(feature = "daemon")]
    #[arg(long, value_name = "TIME", value_parser = super::events::since, conflicts_with = "capture")]
    pub since: Option<std::time::SystemTime>,
    /// Propose a prefix of this length for several sources in it, such as /24, or /64 for IPv6,
    /// instead of each host; may be given for both
    #[arg(long = "aggregate", value_name = "/LENGTH", value_parser = length)]
    pub aggregate: Vec<u8>,
    /// Write the manifest as proposed, with what it names, into a new directory
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// How to ask the daemon.
    #[cfg(feature = "daemon")]
    #[command(flatten)]
    pub ask: super::AskArgs,
}

impl LearnArgs {
    /// The capture; none for the daemon's events.
    pub fn capture(&self) -> Option<&Path> {
        #[cfg(feature = "daemon")]
        return self.capture.as_deref();
        #[cfg(not(feature = "daemon"))]
        Some(&self.capture)
    }

    /// How long prefixes are: up to 32 bits means IPv4, more means IPv6.
    pub fn aggregate(&self) -> Aggregate {
        let of = |v4: bool| self.aggregate.iter().copied().find(|bits| (*bits <= 32) == v4);
        Aggregate { v4: of(true), v6: of(false) }
    }
}

fn length(text: &str) -> Result<u8, String> {
    let bits = text.strip_prefix('/').and_then(|bits| bits.parse().ok());
    // Shorter ones hold whole countries.
    bits.filter(|bits| (8..=128).contains(bits))
        .ok_or_else(|| "expected /8 to /32 for IPv4, /33 to /128 for IPv6".to_owned())
}
