//! The process at the other end of a control connection, as the kernel reports it when the connection
//! is made.

use std::{
    fs,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use nix::unistd::geteuid;
use tokio::net::UnixStream;

use crate::sys;

/// The local users. The C library is not used, because it may query the network, which takes time.
const PASSWD_FILE: &str = "/etc/passwd";
/// Value of `loginuid` for processes without a login, such as services.
const NO_LOGIN: u32 = u32::MAX;

/// The process at the other end of a control connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) user: Option<String>,
    pub(crate) pid: Option<i32>,
    /// Name of the process (`comm`).
    pub(crate) command: Option<String>,
    /// User as whom the person logged in, before any change of the user since; none if it is not known.
    pub(crate) login_uid: Option<u32>,
    pub(crate) login: Option<String>,
    /// Supplementary groups.
    groups: Vec<u32>,
}

impl Peer {
    /// Returns the process at the other end; none if the kernel does not report it.
    pub(crate) fn of(stream: &UnixStream) -> Option<Self> {
        let credentials = stream.peer_cred().ok()?;
        let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", pid?)).ok();
        let login_uid = read("loginuid").and_then(|uid| uid.trim_end().parse().ok());
        let login_uid = login_uid.filter(|uid| *uid != NO_LOGIN);
        let users = fs::read_to_string(PASSWD_FILE).unwrap_or_default();
        Some(Self {
            uid,
            gid,
            user: name_in(&users, uid),
            pid,
            command: read("comm").map(|name| name.trim_end_matches('\n').to_owned()),
            login_uid,
            login: login_uid.and_then(|uid| name_in(&users, uid)),
            groups: sys::peer_groups(stream.as_fd()).unwrap_or_default(),
        })
    }

    /// Returns whether this process may use the socket at this path: root, the daemon's own user, or a
    /// member of the socket's group if the group may write. The mode of the socket file keeps other
    /// users out; this check catches connections that get past it.
    pub(crate) fn may_command(&self, socket: &Path) -> bool {
        if self.uid == 0 || self.uid == geteuid().as_raw() {
            return true;
        }
        fs::symlink_metadata(socket).is_ok_and(|socket| {
            let in_group = self.gid == socket.gid() || self.groups.contains(&socket.gid());
            in_group && socket.mode() & 0o020 != 0
        })
    }
}

/// Returns the name of a user from a text in the format of `/etc/passwd`.
fn name_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_groups_are_found_by_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbad\nann:x:1000:100::/home/ann:/bin/sh\n";
        assert_eq!(name_in(users, 1000).as_deref(), Some("ann"));
        assert_eq!(name_in(users, 100), None);
    }

    #[test]
    fn groups_are_those_of_the_process_at_the_other_end() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut reported = sys::peer_groups(ours.as_fd()).expect("the groups");
        let known = nix::unistd::getgroups().expect("our groups");
        let mut known: Vec<u32> = known.into_iter().map(nix::unistd::Gid::as_raw).collect();
        reported.sort_unstable();
        known.sort_unstable();
        assert_eq!(reported, known);
    }

    /// Case 146.
    #[test]
    fn root_the_daemons_user_and_a_group_that_may_write_may_send_commands() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let gid = file.as_file().metadata().expect("a file").gid();
        let own = geteuid().as_raw();
        let other_user = Peer { uid: own + 1, gid: gid + 1, ..Peer::default() };
        let of_group = Peer { gid, ..other_user.clone() };
        let member = Peer { groups: vec![gid], ..other_user.clone() };
        for (mode, group) in [(0o600, false), (0o660, true), (0o606, false)] {
            let permissions = fs::Permissions::from_mode(mode);
            file.as_file().set_permissions(permissions).expect("a mode");
            let may = |caller: &Peer| caller.may_command(file.path());
            assert_eq!(may(&of_group), group, "{mode:o}");
            assert_eq!(may(&member), group, "{mode:o}");
            assert!(!may(&other_user), "{mode:o}");
            assert!(may(&Peer { uid: own, ..other_user.clone() }), "{mode:o}");
            assert!(may(&Peer { uid: 0, ..other_user.clone() }), "{mode:o}");
        }
        assert!(!of_group.may_command(Path::new("/nonexistent")));
    }
}
