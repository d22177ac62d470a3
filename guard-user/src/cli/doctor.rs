//! `trainguard doctor`

use std::path::PathBuf;

use clap::Args;

use super::AskArgs;
use crate::output::Format;

/// `trainguard doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
It changes nothing: what it makes to try the kernel (maps, programs, a virtual device in a network \
namespace of its own) ends with it, and no interface of this machine is attached to. Best run as \
root: what only root may see is `unknown` for others.

Each line is a check with a name that stays the same, and how it came out: ok; note, nothing has to \
be done; warning, less than it could be; failed, the guard cannot work like this; unknown, it could \
not be seen. Below are the reasons, and a command or a setting for each.

--report writes what was found as one JSON document for a bug ticket: the facts and checks, the \
status, the last events and log records. Addresses, MAC addresses, names of hosts, of the cluster \
and of users are replaced, the same one by the same word. Names of interfaces, files, services, \
roles and processes stay; policies and what packets carry are not in it. Read it before it leaves \
the house.

Exit codes: 0 nothing failed, 1 a check failed, 2 none failed but some could not be seen, or there \
is no answer")]
pub struct DoctorArgs {
    /// The cluster manifest, to look at its files and at the interfaces and ports that it names
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Which node of the manifest this is [default: found by host name, then by address]
    #[arg(long, value_name = "NAME", requires = "manifest")]
    pub node: Option<String>,
    /// Look at this interface (a glob pattern) instead of those of the manifest; may be repeated
    /// [default without a manifest: those of the daemon, or all that are up]
    #[arg(long = "interface", value_name = "NAME")]
    pub interfaces: Vec<String>,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "text")]
    pub format: Format,
    /// Write a report for a bug ticket to a new file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where the last good policy is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/trainguard")]
    pub state_dir: PathBuf,
    /// How to ask the daemon.
    #[command(flatten)]
    pub ask: AskArgs,
}
