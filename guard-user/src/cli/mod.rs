//! What can be typed. Types only: what it means is decided in [`crate::commands`].
#![expect(clippy::doc_markdown, reason = "clap shows these comments as they are")]

#[cfg(feature = "daemon")]
mod doctor;
#[cfg(feature = "daemon")]
mod events;
mod learn;
mod pages;
#[cfg(feature = "daemon")]
mod safety;

use std::path::PathBuf;
#[cfg(feature = "daemon")]
use std::time::Duration;

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
    safety::{ApplyArgs, CutArgs, ModeArgs, SettleArgs, WishArg},
};

/// Network guard for training clusters: makes the ports of distributed training reachable only
/// from the hosts that the cluster manifest names.
#[derive(Debug, Parser)]
#[command(name = "trainguard", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Exit codes: 0 yes or done, 1 a definite no, 2 no answer possible, \
                        3 daemon not reachable")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write a first manifest and policy from a framework and a list of hosts
    Init(InitArgs),
    /// Check manifests and policies; needs no privileges
    Lint(LintArgs),
    /// Run the unit tests of policies
    Test(TestArgs),
    /// Show what a change of policy lets in and keeps out, with an example packet each
    Diff(DiffArgs),
    /// Show every step of the decision about one packet
    Trace(TraceArgs),
    /// Judge the frames of a capture by a policy
    Replay(ReplayArgs),
    /// Propose services and manifest entries for the traffic that was seen, for review
    Learn(LearnArgs),
    /// Tell what a finding of lint or the reason of a verdict means
    Explain(ExplainArgs),
    /// Print the JSON Schema of a document, for editors and other tools
    Schema(SchemaArgs),
    /// Print a manual page, or write all of them
    Man(ManArgs),
    /// Print what makes a shell complete verbs and flags
    Completions(CompletionsArgs),
    /// Look for what would keep this node from being guarded, and tell what to do about it
    #[cfg(feature = "daemon")]
    Doctor(DoctorArgs),
    /// Guard this node: load the manifest, attach to its interfaces, follow changes
    #[cfg(feature = "daemon")]
    Daemon(DaemonArgs),
    /// Take over from a guard of a newer version, which this one would not replace by itself
    ///
    /// Takes the options of the daemon that will run then, which starts as usual afterwards. Each
    /// interface is switched in one step: there is no moment without a guard.
    #[cfg(feature = "daemon")]
    Downgrade(DaemonArgs),
    /// Say whether this node is guarded, by which policy, on which interfaces
    #[cfg(feature = "daemon")]
    Status(StatusArgs),
    /// Show what passed and what was dropped: live on a terminal, rows in a pipe
    #[cfg(feature = "daemon")]
    Stats(StatsArgs),
    /// Show refused packets and other events as they happen, or which member is missing
    #[cfg(feature = "daemon")]
    Events(EventsArgs),
    /// Put another policy into force now, for good or until somebody confirms it
    #[cfg(feature = "daemon")]
    Apply(ApplyArgs),
    /// Keep the policy that is on trial
    #[cfg(feature = "daemon")]
    Confirm(SettleArgs),
    /// Undo the policy that is on trial: what was in force before is again
    #[cfg(feature = "daemon")]
    Rollback(SettleArgs),
    /// Let services observe or enforce for a time, whatever the policy says
    #[cfg(feature = "daemon")]
    Mode(ModeArgs),
    /// Take the guard off the interfaces; works without the daemon
    #[cfg(feature = "daemon")]
    Detach(DetachArgs),
}

/// Directories that a guard uses. Several guards on one machine, in several network namespaces,
/// each get their own.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Args)]
pub struct Directories {
    /// Where sockets are
    #[arg(long, value_name = "DIR", default_value = "/run/trainguard", env = "TRAINGUARD_RUN_DIR")]
    pub run_dir: PathBuf,
    /// Where maps and links are pinned; on a bpf file system
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/sys/fs/bpf/trainguard",
        env = "TRAINGUARD_BPF_DIR"
    )]
    pub bpf_dir: PathBuf,
}

/// How to ask the daemon of this node.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Args)]
pub struct AskArgs {
    /// Where sockets and pins are.
    #[command(flatten)]
    pub directories: Directories,
    /// Wait this long for an answer, for tests
    #[arg(long, value_name = "TIME", value_parser = timing::time, hide = true)]
    pub answer_within: Option<Duration>,
    /// Wait this long for the answer to a command, for tests
    #[arg(long, value_name = "TIME", value_parser = timing::time, hide = true)]
    pub command_within: Option<Duration>,
}

#[cfg(feature = "daemon")]
impl AskArgs {
    /// Who asks.
    pub fn client(&self) -> Client {
        let default = AnswerTimeouts::default();
        Client::new(
            &self.directories.run_dir,
            AnswerTimeouts {
                question: self.answer_within.unwrap_or(default.question),
                command: self.command_within.unwrap_or(default.command),
            },
        )
    }
}

/// How the program is attached.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// In the driver; refused where the driver cannot
    Native,
    /// As a tc program (TCX, Linux 6.6 or later), on any interface: later than native, and faster
    /// than generic where frames are merged first
    Tcx,
    /// In the network stack, after the driver has made a socket buffer: slower
    Generic,
    /// Native where the driver can, else tcx, else generic; the choice and why are logged and shown
    /// by `status`
    Auto,
}

/// `trainguard daemon`
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The cluster manifest
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Which node of the manifest this is [default: found by host name, then by address]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Guard this interface (a glob pattern) instead of those of the manifest; may be repeated
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// How to attach
    #[arg(long, value_enum, default_value = "native")]
    pub mode: ModeArg,
    /// Take it that the node unpacks this, besides what its devices show: fou:PORT, gue:PORT,
    /// l2tp:PORT, whose ports no device tells; may be repeated
    #[arg(long = "tunnel", value_name = "KIND[:PORT]")]
    pub tunnels: Vec<Tunnels>,
    /// Show the metrics on this address of the loopback device, too, such as 127.0.0.1:9477;
    /// without it only on the socket of the statistics, as /metrics
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<std::net::SocketAddr>,
    /// Wait for interfaces that are not there yet, instead of ending if there is none. A service
    /// manager is told that the guard is ready when all are guarded, or after this time, such as
    /// 30s, without those that are missing
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// Accept only policies that are signed with this key, a public key of minisign: MANIFEST.sums,
    /// which sha256sum makes, and MANIFEST.sums.minisig
    #[arg(long, value_name = "FILE")]
    pub policy_key: Option<PathBuf>,
    /// Where the last good policy is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/trainguard")]
    pub state_dir: PathBuf,
    /// Other intervals and time limits, for tests
    #[arg(long, value_name = "KEY=TIME,...", hide = true)]
    pub timing: Option<Timing>,
    /// Where sockets and pins are.
    #[command(flatten)]
    pub directories: Directories,
}

/// `trainguard lint`
#[derive(Debug, Args)]
pub struct LintArgs {
    /// Manifests, policies, or directories of them; `-` is standard input [default: .]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Form of the findings on standard output [default: full]
    #[arg(long, value_enum)]
    pub format: Option<LintFormat>,
    /// Write the findings to a file as well, in a form of its own; `-` is standard output; may be
    /// repeated
    #[arg(long = "output", value_name = "FORMAT=PATH")]
    pub outputs: Vec<LintOutput>,
    /// From which severity on findings make the exit code 1
    #[arg(long, value_enum, default_value = "warning")]
    pub fail_on: FailOn,
    /// Do not tell warnings of this rule, such as TG301; may be repeated
    #[arg(long = "allow", value_name = "CODE", value_parser = rule)]
    pub allow: Vec<Code>,
    /// Tell what comments (`# trainguard: ignore[TG204] reason`) silence, too
    #[arg(long)]
    pub no_ignores: bool,
    /// Refuse manifests that are not signed with this key, a public key of minisign, as a daemon
    /// with the same flag does. Whether one is newer than what is in force, only a daemon knows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fix", "diff"])]
    pub policy_key: Option<PathBuf>,
    /// Apply the safe fixes to the files
    #[arg(long, conflicts_with_all = ["format", "outputs"])]
    pub fix: bool,
    /// Show the safe fixes as a diff, and change nothing; exit with 1 if there are any
    #[arg(long, conflicts_with_all = ["format", "outputs"])]
    pub diff: bool,
}

/// A rule of lint by its code.
fn rule(text: &str) -> Result<Code, String> {
    text.parse().map_err(|()| "no such rule; `trainguard explain` lists them".to_owned())
}

/// `trainguard test`
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Files of tests, or directories with *.test.yaml files [default: .]
    #[arg(value_name = "FILE")]
    pub paths: Vec<PathBuf>,
    /// Let the real program in the kernel judge (needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON)
    #[arg(long)]
    pub kernel: bool,
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Form of the results
    #[arg(long, value_enum, default_value = "text")]
    pub format: TestFormat,
    /// Write the results to a file as JUnit XML, too
    #[arg(long, value_name = "PATH")]
    pub junit: Option<PathBuf>,
    /// Add a test for each refused packet on standard input, a JSON line each as `events` or
    /// `replay --format json` prints it, to the one FILE; made with --manifest if it is not there.
    /// Without FILE the tests are printed
    #[arg(long, conflicts_with_all = ["kernel", "filter", "junit"])]
    pub record: bool,
    /// The manifest that a new file of recorded tests names
    #[arg(long, value_name = "FILE", requires = "record")]
    pub manifest: Option<PathBuf>,
    /// The node of recorded events that name none
    #[arg(long, value_name = "NAME", requires = "record")]
    pub node: Option<String>,
}

/// A form of lint findings, and the file that gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintOutput {
    /// The form.
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
    /// Which document
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

/// Which node's policy an offline verb asks.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// The cluster manifest
    #[arg(long, value_name = "FILE")]
    pub manifest: PathBuf,
    /// Which node of the manifest [default: found by host name, then by address]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Judge as if the node had this tunnel device: ipip, sit, gre, ip6tnl, vti, l2tp, or
    /// vxlan:PORT, geneve:PORT, fou:PORT; may be repeated
    #[arg(long = "tunnel", value_name = "KIND[:PORT]")]
    pub tunnels: Vec<Tunnels>,
}

/// `trainguard replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Whose policy.
    #[command(flatten)]
    pub node: NodeArgs,
    /// A capture of Ethernet frames, pcap or pcapng, or what `events` prints into a pipe; `-` is
    /// standard input
    #[arg(value_name = "FILE")]
    pub capture: PathBuf,
    /// Let the real program in the kernel judge (needs CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON)
    #[arg(long)]
    pub kernel: bool,
    /// Only frames sent to this node's addresses and to group addresses
    #[arg(long)]
    pub received: bool,
    /// A summary for people, or a JSON line for each frame
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// `trainguard trace`
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Whose policy.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Source address, with a port if wanted: `10.0.0.7`, `10.0.0.7:40000`, `[fd00::7]:40000`
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    pub from: String,
    /// Destination address and port
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub to: String,
    /// tcp, udp, udplite, sctp, or a protocol number
    #[arg(long, default_value = "tcp")]
    pub proto: String,
    /// TCP flags: letters of S, A, F, R, P, U
    #[arg(long, default_value = "S")]
    pub flags: String,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Exit with 1 unless the verdict is this
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
    /// The manifest or policy as it was; `-` is standard input
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
    /// The manifest or policy as it is to be; `-` is standard input
    #[arg(value_name = "NEW")]
    pub new: PathBuf,
    /// The cluster manifest that names the policy, if OLD and NEW are policies
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Exit with 1 if anything is let in that was kept out: a gate for pull requests
    #[arg(long)]
    pub deny_wider: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// `trainguard explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// A code of lint (TG103, tg103 or 103) or a reason (not_allowed) [default: list them all]
    #[arg(value_name = "CODE|REASON")]
    pub name: Option<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// `trainguard status`
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// How to ask the daemon.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
}

/// How statistics are shown.
#[cfg(feature = "daemon")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatsFormat {
    /// Rows of fixed columns; with --once the totals, for people
    #[value(alias = "plain")]
    Text,
    /// One document
    Json,
    /// A document a line for each sample
    Ndjson,
}

/// `trainguard stats`
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
#[command(after_help = "\
On a terminal this is a live screen; `?` in it tells the keys. In a pipe, with --format text or \
with a COUNT it writes rows, for each sample one for every interface and one for every reason for \
which frames were refused. As with vmstat the first sample comes at once and tells totals, since \
the counters were made; the ones after it tell what came a second (column UNIT: `total`, then `/s`; \
`restarted` and `new`: totals again, of counters that began anew). It ends with 0 after COUNT \
samples, on an interrupt, or when nobody reads it any more.

JSON has `..._per_second` beside each count: null in the first sample, in ndjson since the sample \
before, in json since the first of COUNT samples.

Without a daemon the pinned maps are read, which takes root: without top sources.

Exit codes: 0 done, 2 no answer possible, 3 neither daemon nor pinned maps at the start")]
pub struct StatsArgs {
    /// Time between two samples: seconds (5, 0.5) or a duration (500ms, 2s) [default: 1]
    #[arg(value_name = "INTERVAL", value_parser = interval)]
    pub interval: Option<Duration>,
    /// Number of samples, then end
    #[arg(value_name = "COUNT", value_parser = at_least_one_sample)]
    pub count: Option<u64>,
    /// Print the totals once and end
    #[arg(long, conflicts_with_all = ["interval", "count"])]
    pub once: bool,
    /// Form of the answer [default: a live screen on a terminal, else text]
    #[arg(long, value_enum)]
    pub format: Option<StatsFormat>,
    /// Whether the live screen uses colours
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto")]
    pub color: Colour,
    /// How to ask the daemon.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Between 0.1 seconds and a day.
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
    /// How to ask the daemon.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Only this interface; may be repeated [default: all]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
}

/// `trainguard init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// What the cluster runs
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(profiles::names()))]
    pub framework: String,
    /// The list of hosts; `-` is standard input
    #[arg(long, value_name = "FILE", required_unless_present = "nodelist")]
    pub hosts: Option<PathBuf>,
    /// How the list is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "auto")]
    pub hosts_format: HostsFormat,
    /// The hosts as Slurm lists them (SLURM_JOB_NODELIST), instead of --hosts
    #[arg(long, value_name = "LIST", conflicts_with_all = ["hosts", "hosts_format"])]
    pub nodelist: Option<String>,
    /// Addresses of host names, in the form of /etc/hosts; names are never looked up in DNS
    #[arg(long, value_name = "FILE")]
    pub resolve: Option<PathBuf>,
    /// Number of server processes, which the first hosts run [default: one on each host]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub servers: Option<usize>,
    /// The host set apart (scheduler, head, controller, launcher): its name, or its addresses
    /// with commas between
    #[arg(long, value_name = "ADDRESS|HOST")]
    pub scheduler: Option<String>,
    /// A pattern of interfaces that carry training traffic; may be repeated
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// A network of the manifest that is no node; may be repeated
    #[arg(long = "network", value_name = "NAME=PREFIX,...")]
    pub networks: Vec<String>,
    /// Name of the cluster [default: that of the framework]
    #[arg(long, value_name = "CLUSTER")]
    pub name: Option<String>,
    /// Where to write; `-` is standard output
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
    /// Replace files that are there
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
