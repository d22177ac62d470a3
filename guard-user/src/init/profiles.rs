//! The policies that `trainguard init` can write, and which hosts have the roles of each.

/// The hosts that have a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleHolders {
    /// The host that `--scheduler` names. The option is required, because the host is in no host
    /// list.
    Scheduler,
    /// The host that `--scheduler` names, else the head that the host list names, else the first
    /// one.
    First,
    /// Every host of the list.
    Listed,
    /// The first hosts of the list, as many as there are servers.
    Servers,
    /// Every host of the list without a role of another kind; all hosts, if none is left.
    Others,
    /// Hosts whose name begins with the role; the first host, if there are none.
    Named,
}

/// A built-in policy.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Name on the command line and in the policy.
    pub name: &'static str,
    /// Text of the policy.
    pub policy: &'static str,
    /// Roles, each with the hosts that have it.
    pub roles: &'static [(&'static str, RoleHolders)],
}

/// All profiles, sorted by name. The build script reads them and their roles from the front matter
/// of the files in `policies/`.
pub const PROFILES: &[Profile] = &include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

impl Profile {
    /// Reports whether a role goes to hosts of this kind.
    pub(super) fn has(&self, which: RoleHolders) -> bool {
        self.roles.iter().any(|(_, w)| *w == which)
    }

    /// Reports whether one host has a special role: scheduler, head or controller.
    pub(super) fn has_first(&self) -> bool {
        [RoleHolders::Scheduler, RoleHolders::First, RoleHolders::Named]
            .iter()
            .any(|which| self.has(*which))
    }
}

/// Returns the profile with a name.
pub fn find(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|profile| profile.name == name)
}

/// Returns the names of all profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|profile| profile.name)
}
