//! `trainguard doctor`

use std::path::PathBuf;

use clap::Args;

use super::ClientArgs;
use crate::output::Format;

/// `trainguard doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
Changes nothing: everything it creates to test the kernel (maps, programs, a virtual device in a \
network namespace of its own) is gone when it exits, and it attaches to no interface of this \
machine. Run it as root: checks that need root are `unknown` for other users.

Each line is a check with a stable name and its result: ok; note, no action needed; warning, the \
guard works with a limitation; failed, the guard cannot work; unknown, the check could not run. \
The reasons follow, each with a command or a setting that helps.

--report writes one JSON document for a bug report: facts, checks, the status, the last events and \
log records. Addresses, MAC addresses and the names of hosts, cluster and users are replaced, each \
always by the same word. Names of interfaces, files, services, roles and processes are kept; \
policies and packet payloads are not included. Review it before you send it.

Exit codes: 0 no check failed, 1 a check failed, 2 none failed but some could not run, or an error")]
pub struct DoctorArgs {
    /// The cluster manifest; checks its files and the interfaces and ports that it names
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// The node of the manifest that this host is [default: found by host name, then by address]
    #[arg(long, value_name = "NAME", requires = "manifest")]
    pub node: Option<String>,
    /// Check this interface (a glob pattern) instead of the manifest's; may be repeated [default
    /// without a manifest: the daemon's interfaces, or all that are up]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Write a report for a bug ticket to a new file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Directory of the last good policy and other state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/trainguard")]
    pub state_dir: PathBuf,
    /// Options of the request to the daemon.
    #[command(flatten)]
    pub daemon: ClientArgs,
}
