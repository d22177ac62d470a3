//! `trainguard learn`

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{learn::draft::Aggregate, output::Format};

/// `trainguard learn`
#[derive(Debug, Args)]
#[command(after_help = "\
Capture both directions at the node, from before the job starts: `tcpdump -i eth0 -s 128 -w FILE`. A \
contact counts if the source opened the connection, the node answered, and data went both ways. \
Contacts that the policy already allows are only listed. For an unguarded port, a service is \
proposed: it allows members by one of their roles, and other hosts as exact addresses in a network \
of the manifest. For a source that a service refuses, the manifest entry that admits it is \
proposed. Port scans, sources that got no answer and impossible addresses are left out, each listed \
with the reason.

Without --capture, the input is the daemon's events on this node: samples of packets that services \
in mode observe would refuse. They contain no answers; a source counts if two of them are from the \
middle of a connection.

The proposal is printed and not applied. New services have `mode: observe`; change that to \
`enforce` yourself.

Exit codes: 0 done, also if there is nothing to propose, 2 error, 3 daemon not \
reachable")]
pub struct LearnArgs {
    /// The cluster manifest
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// The node of the manifest that the capture is from [default: found by host name, then by address]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// A capture of Ethernet frames (pcap or pcapng), or JSON lines of `events`; `-` is standard
    /// input [default: the daemon's events]
    #[cfg(feature = "daemon")]
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// A capture of Ethernet frames (pcap or pcapng), or JSON lines of `events`; `-` is standard
    /// input
    #[cfg(not(feature = "daemon"))]
    #[arg(long, value_name = "FILE")]
    pub capture: PathBuf,
    /// Use only daemon events since this time: a duration ago (10m, 2h) or a time in UTC (14:05,
    /// 2026-01-31T14:05:00Z)
    #[cfg(feature = "daemon")]
    #[arg(long, value_name = "TIME", value_parser = super::events::since, conflicts_with = "capture")]
    pub since: Option<std::time::SystemTime>,
    /// Propose one prefix of this length, such as /24, or /64 for IPv6, instead of several hosts in
    /// it; may be given once for each address family
    #[arg(long = "aggregate", value_name = "/LENGTH", value_parser = length)]
    pub aggregate: Vec<u8>,
    /// Write the proposed manifest and its files into a new directory
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Options of the request to the daemon.
    #[cfg(feature = "daemon")]
    #[command(flatten)]
    pub daemon: super::ClientArgs,
}

impl LearnArgs {
    /// The capture; none for the daemon's events.
    pub fn capture(&self) -> Option<&Path> {
        #[cfg(feature = "daemon")]
        return self.capture.as_deref();
        #[cfg(not(feature = "daemon"))]
        Some(&self.capture)
    }

    /// Lengths of aggregated prefixes: up to 32 bits for IPv4, more for IPv6.
    pub fn aggregate(&self) -> Aggregate {
        let of = |v4: bool| self.aggregate.iter().copied().find(|bits| (*bits <= 32) == v4);
        Aggregate { v4: of(true), v6: of(false) }
    }
}

fn length(text: &str) -> Result<u8, String> {
    let bits = text.strip_prefix('/').and_then(|bits| bits.parse().ok());
    // A shorter prefix would admit whole providers.
    bits.filter(|bits| (8..=128).contains(bits))
        .ok_or_else(|| "expected /8 to /32 for IPv4, /33 to /128 for IPv6".to_owned())
}
