//! Rules of iptables that deliver packets for other addresses to this node, in kernels that keep them
//! in tables of their own (`iptables-legacy`).
//!
//! The kernel has no query for these rules that does not create the table, and no notification. Whether
//! there can be such rules shows in its lists of tables and targets: TPROXY is a target of the table
//! `mangle` only, and REDIRECT of `nat` only.

use std::{fs, io, path::Path};

use crate::netlink::forwarding::Family;

/// Whether there can be rules with these targets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LegacyTables {
    /// Rules that give packets to a socket of this node.
    pub(crate) tproxy: bool,
    /// Rules that redirect packets to a port of this node.
    pub(crate) redirect: bool,
}

impl LegacyTables {
    /// Reads the lists of the network namespace of this thread.
    ///
    /// # Errors
    /// Only root may read the lists, and the kernel has the tables built in, so that the list of
    /// modules does not tell either.
    pub(crate) fn read(family: Family) -> io::Result<Self> {
        // `/proc/net` is the namespace of the process, which may be another one.
        Self::read_from(Path::new("/proc/thread-self/net"), Path::new("/proc/modules"), family)
    }

    fn read_from(net: &Path, modules: &Path, family: Family) -> io::Result<Self> {
        let prefix = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let read = |list: &str| fs::read_to_string(net.join(format!("{prefix}_tables_{list}")));
        let names = match read("names") {
            // The kernel has no such tables.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Self::of_modules(&fs::read_to_string(modules).unwrap_or_default(), prefix)
                    .ok_or_else(|| {
                        let why = "only root may read their list, and the kernel has them built in";
                        io::Error::new(error.kind(), why)
                    });
            }
            names => names?,
        };
        if names.is_empty() {
            return Ok(Self::default());
        }
        let targets = read("targets")?;
        let has = |list: &str, entry: &str| list.lines().any(|line| line == entry);
        Ok(Self {
            tproxy: has(&names, "mangle") && has(&targets, "TPROXY"),
            redirect: has(&names, "nat") && has(&targets, "REDIRECT"),
        })
    }

    /// Infers the same from the loaded modules. Returns none if the kernel has the tables built in.
    fn of_modules(modules: &str, prefix: &str) -> Option<Self> {
        let names = modules.lines().filter_map(|line| line.split_whitespace().next());
        let names: Vec<&str> = names.collect();
        let is_loaded = |name: &str| names.contains(&name);
        // Tables and targets need this one, so none of them is built in if it is a module.
        is_loaded("x_tables").then(|| Self {
            tproxy: is_loaded("xt_TPROXY") && is_loaded(&format!("{prefix}table_mangle")),
            redirect: is_loaded("xt_REDIRECT") && is_loaded(&format!("{prefix}table_nat")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_counts_if_its_table_exists() {
        let net = tempfile::tempdir().expect("a directory");
        let read =
            |family| LegacyTables::read_from(net.path(), &net.path().join("modules"), family);
        assert_eq!(read(Family::V4).expect("no tables"), LegacyTables::default());
        let write =
            |name: &str, text: &str| fs::write(net.path().join(name), text).expect("writing");
        write("ip_tables_targets", "TPROXY\nREDIRECT\nMARK\n");
        write("ip_tables_names", "");
        assert_eq!(read(Family::V4).expect("no tables"), LegacyTables::default());
        write("ip_tables_names", "filter\nnat\n");
        let redirect = LegacyTables { tproxy: false, redirect: true };
        assert_eq!(read(Family::V4).expect("tables"), redirect);
        write("ip_tables_names", "mangle\n");
        let tproxy = LegacyTables { tproxy: true, redirect: false };
        assert_eq!(read(Family::V4).expect("tables"), tproxy);
        assert_eq!(read(Family::V6).expect("no tables"), LegacyTables::default());
    }

    #[test]
    fn modules_tell_what_an_unprivileged_process_cannot_read() {
        let modules =
            "xt_REDIRECT 16384 1 - Live 0x0\niptable_nat 16384 1 - Live 0x0\nx_tables 1 2\n";
        let expected = LegacyTables { tproxy: false, redirect: true };
        assert_eq!(LegacyTables::of_modules(modules, "ip"), Some(expected));
        assert_eq!(LegacyTables::of_modules(modules, "ip6"), Some(LegacyTables::default()));
        assert_eq!(LegacyTables::of_modules("", "ip"), None, "built in");
    }
}
