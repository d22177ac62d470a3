//! The command line: types only. [`crate::commands`] decides what each option does.
#![expect(clippy::doc_markdown, reason = "clap shows these comments as they are")]

#[cfg(feature = "daemon")]
mod doctor;
#[cfg(feature = "daemon")]
mod events;
mod learn;
mod pages;
#[cfg(feature = "daemon")]
mod safety;

#[cfg(feature = "daemon")]
use std::time::Duration;
use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};

#[cfg(feature = "daemon")]
use crate::{
    api::client::{AnswerTimeouts, Client},
    daemon::timing::{self, Timing},
    output::Colour,
};
use crate::{
    init::{HostsFormat, profiles},
    output::Format,
    policy::{compiled::Tunnels, syntax::rules::Code},
    report::{lint::LintFormat, test::TestFormat},
};

pub use self::learn::LearnArgs;
pub use self::pages::{CompletionsArgs, ManArgs, Shell};
#[cfg(feature = "daemon")]
pub use self::{
    doctor::DoctorArgs,
    events::EventsArgs,
    safety::{ApplyArgs, CutArgs, ModeArgs, ServiceModeArg, TrialArgs},
};

/// Network guard for training clusters: makes the ports of distributed training reachable only
/// from the hosts that the cluster manifest names.
#[derive(Debug, Parser)]
#[command(name = "trainguard", version, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 yes or done, 1 no (findings, failed checks), 2 error (usage, I/O), \
                        3 daemon not reachable"
)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a first manifest and policy from a framework and a list of hosts
    Init(InitArgs),
    /// Check manifests and policies; needs no privileges
    Lint(LintArgs),
    /// Run the unit tests of policies
    Test(TestArgs),
    /// Show what a policy change newly admits and refuses, each with an example packet
    Diff(DiffArgs),
    /// Show every step of the decision about one packet
    Trace(TraceArgs),
    /// Evaluate the frames of a capture against a policy
    Replay(ReplayArgs),
    /// Propose services and manifest entries from observed traffic, for review
    Learn(LearnArgs),
    /// Explain a lint finding or the reason of a verdict
    Explain(ExplainArgs),
    /// Print the JSON Schema of a document, for editors and other tools
    Schema(SchemaArgs),
    /// Print a manual page, or write all of them
    Man(ManArgs),
    /// Print a shell completion script
    Completions(CompletionsArgs),
    /// Check whether this node can be guarded, with a fix for each problem
    #[cfg(feature = "daemon")]
    Doctor(DoctorArgs),
    /// Guard this node: load the manifest, attach to its interfaces, follow changes
    #[cfg(feature = "daemon")]
    Daemon(DaemonArgs),
    /// Replace a guard of a newer version, which `trainguard daemon` leaves in place
    ///
    /// Takes the options of the daemon that will run afterwards; start that daemon as usual. Each
    /// interface is switched atomically, so that it is guarded at every moment.
    #[cfg(feature = "daemon")]
    Downgrade(DaemonArgs),
    /// Report whether this node is guarded, by which policy, on which interfaces
    #[cfg(feature = "daemon")]
    Status(StatusArgs),
    /// Show passed and dropped packets: live on a terminal, rows in a pipe
    #[cfg(feature = "daemon")]
    Stats(StatsArgs),
    /// Show refused packets and other events, or hosts that the manifest may lack
    #[cfg(feature = "daemon")]
    Events(EventsArgs),
    /// Put another policy into force, permanently or until confirmed
    #[cfg(feature = "daemon")]
    Apply(ApplyArgs),
    /// Keep the policy that is on trial
    #[cfg(feature = "daemon")]
    Confirm(TrialArgs),
    /// Roll back the policy that is on trial to the one before it
    #[cfg(feature = "daemon")]
    Rollback(TrialArgs),
    /// Override the mode of services for a time: observe or enforce
    #[cfg(feature = "daemon")]
    Mode(ModeArgs),
    /// Detach the guard from interfaces; works without the daemon
    #[cfg(feature = "daemon")]
    Detach(DetachArgs),
}

/// Directories of a guard. Several guards on one machine, in several network namespaces, need
/// directories of their own.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Args)]
pub struct Directories {
    /// Directory of the sockets
    #[arg(long, value_name = "DIR", default_value = "/run/trainguard", env = "TRAINGUARD_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Directory of the pinned maps and links, on a bpf file system
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/sys/fs/bpf/trainguard",
        env = "TRAINGUARD_BPF_DIR"
    )]
    pub bpf_dir: PathBuf,
}

/// Options of requests to the daemon of this node.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// Sockets and pins.
    #[command(flatten)]
    pub directories: Directories,
    /// Timeout of a query, for tests
    #[arg(long, value_name = "TIME", value_parser = timing::time, hide = true)]
    pub answer_within: Option<Duration>,
    /// Timeout of a command, for tests
    #[arg(long, value_name = "TIME", value_parser = timing::time, hide = true)]
    pub command_within: Option<Duration>,
}

#[cfg(feature = "daemon")]
impl ClientArgs {
    /// The client that sends the requests.
    pub fn client(&self) -> Client {
        let default = AnswerTimeouts::default();
        Client::new(
            &self.directories.run_dir,
            AnswerTimeouts {
                query: self.answer_within.unwrap_or(default.query),
                command: self.command_within.unwrap_or(default.command),
            },
        )
    }
}

/// The attach mode of the program.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AttachModeArg {
    /// In the driver; fails if the driver does not support XDP
    Native,
    /// As a tc program (TCX, Linux 6.6 or later), on any interface; runs later than native, and
    /// faster than generic where GRO merges frames
    Tcx,
    /// In the network stack, after the driver has allocated a socket buffer; slower
    Generic,
    /// Native if the driver supports it, else tcx, else generic; the log and `status` show the
    /// choice and the reason
    Auto,
}

/// `trainguard daemon`
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The cluster manifest
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// The node of the manifest that this host is [default: found by host name, then by address]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Guard this interface (a glob pattern) instead of the manifest's; may be repeated
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Attach mode
    #[arg(long, value_enum, default_value = "native")]
    pub mode: AttachModeArg,
    /// Treat the node as an endpoint of this tunnel, in addition to its tunnel devices: fou:PORT,
    /// gue:PORT, l2tp:PORT, whose ports no device shows; may be repeated
    #[arg(long = "tunnel", value_name = "KIND[:PORT]")]
    pub tunnels: Vec<Tunnels>,
    /// Also serve /metrics on this loopback address, such as 127.0.0.1:9477 [default: only on the
    /// statistics socket]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<std::net::SocketAddr>,
    /// Wait for missing interfaces instead of exiting if none exists. The daemon reports readiness
    /// to the service manager when all interfaces are guarded, or after this time (such as 30s)
    /// without the missing ones
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// Accept only policies signed with this minisign public key: MANIFEST.sums, as sha256sum
    /// writes it, with its signature in MANIFEST.sums.minisig
    #[arg(long, value_name = "FILE")]
    pub policy_key: Option<PathBuf>,
    /// Directory of the last good policy and other state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/trainguard")]
    pub state_dir: PathBuf,
    /// Override intervals and timeouts, for tests
    #[arg(long, value_name = "KEY=TIME,...", hide = true)]
    pub timing: Option<Timing>,
    /// Sockets and pins.
    #[command(flatten)]
    pub directories: Directories,
}

/// `trainguard lint`
#[derive(Debug, Args)]
pub struct LintArgs {
    /// Manifests, policies, or directories of them; `-` is standard input [default: .]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Output format on standard output [default: full]
    #[arg(long, value_enum)]
    pub format: Option<LintFormat>,
    /// Also write the findings to a file, in this format; `-` is standard output; may be repeated
    #[arg(long = "output", value_name = "FORMAT=PATH")]
    pub outputs: Vec<LintOutput>,
    /// Lowest severity of a finding that makes the exit code 1
    #[arg(long, value_enum, default_value = "warning")]
    pub fail_on: FailOn,
    /// Do not report warnings of this rule, such as TG301; may be repeated
    #[arg(long = "allow", value_name = "CODE", value_parser = rule)]
    pub allow: Vec<Code>,
    /// Also report findings silenced by comments (`# trainguard: ignore[TG204] reason`)
    #[arg(long)]
    pub no_ignores: bool,
    /// Refuse manifests that are not signed with this minisign public key, as a daemon with the
    /// same flag does. Only the daemon can check that the serial number increases
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fix", "diff"])]
    pub policy_key: Option<PathBuf>,
    /// Apply the safe fixes to the files
    #[arg(long, conflicts_with_all = ["format", "outputs"])]
    pub fix: bool,
    /// Print the safe fixes as a diff without applying them; exit with 1 if there are any
    #[arg(long, conflicts_with_all = ["format", "outputs"])]
    pub diff: bool,
}

/// Parses the code of a lint rule.
fn rule(text: &str) -> Result<Code, String> {
    text.parse().map_err(|()| "no such rule; `trainguard explain` lists them".to_owned())
}

/// `trainguard test`
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Test files, or directories with *.test.yaml files [default: .]
    #[arg(value_name = "FILE")]
    pub paths: Vec<PathBuf>,
    /// Evaluate with the real program in the kernel (needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON)
    #[arg(long)]
    pub kernel: bool,
    /// Run only tests whose name contains this text
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: TestFormat,
    /// Also write the results to a file as JUnit XML
    #[arg(long, value_name = "PATH")]
    pub junit: Option<PathBuf>,
    /// Add a test to FILE for each refused packet on standard input, given as JSON lines of
    /// `events` or `replay --format json`; with --manifest the file is created if it does not
    /// exist. Without FILE the tests are printed
    #[arg(long, conflicts_with_all = ["kernel", "filter", "junit"])]
    pub record: bool,
    /// The manifest that a new test file refers to
    #[arg(long, value_name = "FILE", requires = "record")]
    pub manifest: Option<PathBuf>,
    /// The node for events that name none
    #[arg(long, value_name = "NAME", requires = "record")]
    pub node: Option<String>,
}

/// An output format of lint, and the file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintOutput {
    /// The format.
    pub format: LintFormat,
    /// The file; `-` is standard output.
    pub path: PathBuf,
}

impl std::str::FromStr for LintOutput {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, path) = text
            .split_once('=')
            .ok_or_else(|| "expected FORMAT=PATH, such as sarif=lint.sarif".to_owned())?;
        if path.is_empty() {
            return Err("the path is empty, expected FORMAT=PATH".to_owned());
        }
        Ok(Self { format: LintFormat::from_str(format, false)?, path: path.into() })
    }
}

/// Severity from which `lint` fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Only errors
    Error,
    /// Warnings and errors
    Warning,
    /// Anything
    Info,
    /// Nothing
    Never,
}

/// `trainguard schema`
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// The document
    #[arg(value_enum, value_name = "DOCUMENT")]
    pub document: SchemaDocument,
}

/// A document that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaDocument {
    /// The cluster manifest
    Cluster,
    /// A policy
    Policy,
    /// A policy unit test
    Test,
}

/// The node whose policy an offline subcommand evaluates.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// The cluster manifest
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// The node of the manifest [default: found by host name, then by address]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Evaluate as if the node had this tunnel device: ipip, sit, gre, ip6tnl, vti, l2tp, or
    /// vxlan:PORT, geneve:PORT, fou:PORT; may be repeated
    #[arg(long = "tunnel", value_name = "KIND[:PORT]")]
    pub tunnels: Vec<Tunnels>,
}

/// `trainguard replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// A capture of Ethernet frames (pcap or pcapng), or JSON lines of `events`; `-` is standard
    /// input
    #[arg(value_name = "FILE")]
    pub capture: PathBuf,
    /// Evaluate with the real program in the kernel (needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON)
    #[arg(long)]
    pub kernel: bool,
    /// Only frames sent to this node's addresses and to group addresses
    #[arg(long)]
    pub received: bool,
    /// A further address of this node, which the manifest does not give it: a virtual address, or
    /// one of another interface; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub own: Vec<IpAddr>,
    /// Output format: a summary, or a JSON line for each frame
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// `trainguard trace`
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Source address with an optional port: `10.0.0.7`, `10.0.0.7:40000`, `[fd00::7]:40000`
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub from: String,
    /// Destination address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub to: String,
    /// tcp, udp, udplite, sctp, or a protocol number
    #[arg(long, default_value = "tcp")]
    pub proto: String,
    /// TCP flags: any of the letters S, A, F, R, P, U
    #[arg(long, default_value = "S")]
    pub flags: String,
    /// Evaluate the packet as one that the node would only forward, to a container or another host
    #[arg(long)]
    pub forwarded: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Exit with 1 unless this is the verdict
    #[arg(long, value_name = "VERDICT")]
    pub expect: Option<Expected>,
}

/// A verdict to expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Expected {
    /// The packet passes
    Pass,
    /// The packet is dropped
    Drop,
}

/// `trainguard diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The old manifest or policy; `-` is standard input
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The new manifest or policy; `-` is standard input
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// The cluster manifest that lists the policy, if OLD and NEW are policies
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Exit with 1 if the change admits anything that was refused: a gate for pull requests
    #[arg(long)]
    pub deny_wider: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// `trainguard explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A lint rule (TG103, tg103 or 103) or a reason (not_allowed) [default: list all]
    #[arg(value_name = "CODE|REASON")]
    pub name: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// `trainguard status`
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// Output formats of the statistics.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// Rows of fixed columns; with --once a table of totals
    #[value(alias = "plain")]
    Text,
    /// One document
    Json,
    /// One document per line and sample
    Ndjson,
}

/// `trainguard stats`
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
#[command(after_help = "\
On a terminal this is a live screen; `?` shows its keys. In a pipe, with --format text or with a \
COUNT it writes rows: in each sample one for every interface and one for every reason for which \
frames were refused. As with vmstat, the first sample is immediate and shows totals since the \
counters were created; later samples show rates per second (column UNIT: `total`, then `/s`; \
`restarted` and `new` mark totals of counters that started again from zero). It exits with 0 after \
COUNT samples, on an interrupt, or when its reader closes the pipe.

JSON has `..._per_second` beside each count: null in the first sample, in ndjson the rate since \
the previous sample, in json the rate since the first of COUNT samples.

Without a daemon the pinned maps are read, which needs root and shows no top sources.

Exit codes: 0 done, 2 error, 3 neither a daemon nor pinned maps at the start")]
pub struct StatsArgs {
    /// Time between two samples: seconds (5, 0.5) or a duration (500ms, 2s) [default: 1]
    #[arg(value_name = "INTERVAL", value_parser = interval)]
    pub interval: Option<Duration>,
    /// Number of samples, then exit
    #[arg(value_name = "COUNT", value_parser = at_least_one_sample)]
    pub count: Option<u64>,
    /// Print the totals once and exit
    #[arg(long, conflicts_with_all = ["interval", "count"])]
    pub once: bool,
    /// Output format [default: a live screen on a terminal, else text]
    #[arg(long, value_enum)]
    pub format: Option<StatsFormat>,
    /// When the live screen uses colours
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: Colour,
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
}

/// Parses an interval between 0.1 seconds and a day.
#[cfg(feature = "daemon")]
fn interval(text: &str) -> Result<Duration, String> {
    let expected = "expected seconds or a duration of 100ms to 1day, such as 5, 0.5, 500ms or 2s";
    let interval = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_no_number) => humantime::parse_duration(text).ok(),
    };
    let sane = Duration::from_millis(100)..=Duration::from_hours(24);
    interval.filter(|interval| sane.contains(interval)).ok_or_else(|| expected.to_owned())
}

#[cfg(feature = "daemon")]
fn at_least_one_sample(text: &str) -> Result<u64, String> {
    let count = text.parse().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "expected a number of samples, at least 1".to_owned())
}

/// `trainguard detach`
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
    /// Only this interface; may be repeated [default: all]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
}

/// `trainguard init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The framework that the cluster runs
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(profiles::names()))]
    pub framework: String,
    /// The list of hosts; `-` is standard input
    #[arg(long, value_name = "FILE", required_unless_present = "nodelist")]
    pub hosts: Option<PathBuf>,
    /// Format of the list
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "auto")]
    pub hosts_format: HostsFormat,
    /// The hosts as a Slurm node list (SLURM_JOB_NODELIST), instead of --hosts
    #[arg(long, value_name = "LIST", conflicts_with_all = ["hosts", "hosts_format"])]
    pub nodelist: Option<String>,
    /// Addresses of host names, in the form of /etc/hosts; names are never looked up in DNS
    #[arg(long, value_name = "FILE")]
    pub resolve: Option<PathBuf>,
    /// Number of server processes, one on each of the first hosts [default: one on each host]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub servers: Option<usize>,
    /// The scheduler, head, controller or launcher: its host name, or its addresses separated by
    /// commas
    #[arg(long, value_name = "ADDRESS|HOST")]
    pub scheduler: Option<String>,
    /// A pattern of interfaces that carry training traffic; may be repeated
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// A named network of the manifest, for hosts that are not nodes; may be repeated
    #[arg(long = "network", value_name = "NAME=PREFIX,...")]
    pub networks: Vec<String>,
    /// Name of the cluster [default: the name of the framework]
    #[arg(long, value_name = "CLUSTER")]
    pub name: Option<String>,
    /// Output directory; `-` is standard output
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
    /// Overwrite existing files
    #[arg(long)]
    pub force: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_not_a_number) => Err("expected a number".to_owned()),
    }
}
