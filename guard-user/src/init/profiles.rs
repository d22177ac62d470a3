//! The policies that `trainguard init` can write, and which hosts have the roles of each.

/// Which hosts have a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleHolders {
    /// The host that `--scheduler` names. It must be named: it is in no host list.
    Scheduler,
    /// The host that `--scheduler` names, else the head that the host list tells, else the first.
    First,
    /// Every host of the list.
    Listed,
    /// The first hosts of the list, as many as there are servers.
    Servers,
    /// Every host of the list without a role of another kind; all, if none is left.
    Others,
    /// Hosts whose name begins with the role; the first host, if there are none.
    Named,
}

/// A policy that comes with the program.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// What it is called, on the command line and in itself.
    pub name: &'static str,
    /// Its text.
    pub policy: &'static str,
    /// Its roles, each with the hosts that have it.
    pub roles: &'static [(&'static str, RoleHolders)],
}

/// All of them, by name. The build script reads them, and their roles, from the front matter of the files in
/// `policies/`.
pub const PROFILES: &[Profile] = &include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

impl Profile {
    /// Whether a role goes to some hosts of this kind.
    pub(super) fn has(&self, which: RoleHolders) -> bool {
        self.roles.iter().any(|(_, w)| *w == which)
    }

    /// Whether one host is set apart: a scheduler, head or controller.
    pub(super) fn has_first(&self) -> bool {
        [RoleHolders::Scheduler, RoleHolders::First, RoleHolders::Named]
            .iter()
            .any(|which| self.has(*which))
    }
}

/// The profile of a name.
pub fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

/// The names of all profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|profile| profile.name)
}
