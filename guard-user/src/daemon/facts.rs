//! Parts of the status that say where a policy comes from, what runs, and what is left open. Their
//! field names are a contract, like those of [`super::view`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::guard::hexadecimal;
use crate::{kernel::program::Program, logs::Missing};

/// Where the running policy comes from, and what became of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `files`; `last_good` for the copy of the policy that was last in force; `applied` or `trial`
    /// for one that was applied and is not what the files say; empty if nothing is in force.
    pub kind: String,
    /// The manifest, or the copy.
    pub path: String,
    /// The serial number that it was signed with; null if the daemon takes unsigned ones, too.
    #[serde(default)]
    pub serial: Option<u64>,
    /// Why the copy is used and not the files.
    pub why: Option<String>,
    /// Whether files differ from those that were last loaded. They are loaded once they stand
    /// still, within a second.
    pub changed: bool,
    /// SHA-256 over the files that were last read and are not in force, in hexadecimal: the same
    /// on all nodes that have the same files. Null if the files are in force, or cannot be read.
    pub refused_files: Option<String>,
    /// The last time that the files were loaded; null if that has not been tried.
    pub last_load: Option<LoadStatus>,
}

/// What became of loading the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// When it began: RFC 3339, UTC, to the millisecond.
    pub time: String,
    /// `success` or `failure`.
    pub result: String,
}

/// A program in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramStatus {
    /// Its id, which no other program of this machine has while it lives.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The kernel's hash of its instructions, in hexadecimal; null if it keeps none.
    pub tag: Option<String>,
}

impl From<Program> for ProgramStatus {
    fn from(program: Program) -> Self {
        let Program { id, name, tag } = program;
        Self { id, name, tag: tag.map(|tag| hexadecimal(&tag)) }
    }
}

/// Ports that take what strangers send and that no service guards. Left out: sockets that are bound
/// to an address of the loopback device, or to a device that is not guarded; the ports of tunnel
/// devices, which are listed as such.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPorts {
    /// The first of them: what has a port of its own before what the kernel gave one, streams
    /// before datagrams, by number.
    pub ports: Vec<OpenPort>,
    /// How many there are besides.
    pub more: u64,
    /// Why some may be missing.
    pub problem: Option<String>,
}

impl OpenPorts {
    /// The sockets, by inode.
    pub fn inodes(&self) -> BTreeSet<u32> {
        self.ports.iter().map(|port| port.inode).filter(|inode| *inode != 0).collect()
    }

    /// Names the processes that have them, by inode.
    pub fn set_commands(&mut self, commands: &BTreeMap<u32, String>) {
        for port in &mut self.ports {
            port.command = commands.get(&port.inode).cloned();
        }
    }
}

/// A port with sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenPort {
    /// As policies write it: `tcp/9091`.
    pub port: String,
    /// Some of the addresses that sockets are bound to; `::` if to all, or `0.0.0.0` if to all of
    /// IPv4.
    pub addresses: Vec<String>,
    /// User who made the first of the sockets.
    pub uid: u32,
    /// Inode of that socket; 0 if it is the kernel's own.
    pub inode: u32,
    /// Name of a process that has the socket, as it calls itself; null if it cannot be seen by who
    /// asks. The daemon does not look: the verb does, with the rights of who calls it.
    pub command: Option<String>,
    /// How many sockets have this port.
    pub sockets: u64,
}

/// Log records that were not written since the daemon was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// They were repeated too often.
    pub suppressed: u64,
    /// Nobody took them: the journal or the reader of standard error stands still.
    pub lost: u64,
}

impl From<Missing> for LogStatus {
    fn from(missing: Missing) -> Self {
        let Missing { suppressed, lost } = missing;
        Self { suppressed, lost }
    }
}
