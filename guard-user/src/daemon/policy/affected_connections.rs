//! The effect of a change of policy on open connections. The decision code evaluates one segment in the
//! middle of each connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use guard_common::{Addr, Verdict, packet::Frame, tables::Service, wire};

use super::forwarded_connections::{AttachedNetworks, Passage};
use crate::{
    api::{
        connections::{Affected, Direction, Group},
        control::Session,
    },
    netlink::{
        connections::{Connection, Listeners},
        devices::Device,
        forwarding::Family,
        topology,
    },
    policy::{
        compiled::{CompiledPolicy, HostTables, name_of},
        limiter::HostLimiter,
    },
    probe::{FLAGS_ESTABLISHED, FLAGS_OPENING, Probe},
};

/// Maximum number of groups of connections in an answer.
const MAX_GROUPS: usize = 100;
/// Default port of ssh.
pub(crate) const SSH: u16 = 22;
/// Kinds of devices whose packets arrive through other devices, which may be guarded. An address on
/// such a device may be reached through the guard.
const UPPER_DEVICE_KINDS: [&str; 9] =
    ["bond", "bridge", "dummy", "hsr", "ipvlan", "macvlan", "team", "vlan", "vrf"];

/// Returns whether a connection is the session.
pub(crate) fn is_session(session: &Session, connection: &Connection) -> bool {
    (session.peer, session.local) == (connection.peer, connection.local)
}

/// A policy, and the interfaces and addresses of the node for which connections are checked.
pub(crate) struct ConnectionCheck<'a> {
    /// The policy.
    pub(crate) policy: &'a CompiledPolicy,
    /// Indices of the interfaces that the policy guards.
    pub(crate) guarded: &'a BTreeSet<u32>,
    /// Names of the devices of each address of this node.
    pub(crate) addresses: &'a BTreeMap<IpAddr, BTreeSet<String>>,
    pub(crate) devices: &'a [Device],
    /// IP versions of which all services judge forwarded packets, because these cannot be told apart.
    pub(crate) untold: &'a BTreeSet<Family>,
}

/// The effect of a policy on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Impact {
    /// Segments in the middle of the connection are dropped.
    Cut,
    /// Segments that open the connection are dropped: an open one goes on, but cannot be opened again.
    NotReopened,
}

/// A connection that a policy refuses.
#[derive(Debug, Clone)]
pub(crate) struct RefusedConnection {
    pub(crate) connection: Connection,
    pub(crate) impact: Impact,
    /// Which end opened it, if the node has an end.
    direction: Direction,
    service: String,
    node: Option<String>,
}

impl ConnectionCheck<'_> {
    /// Returns whether packets of a connection arrive through a guarded interface. If that cannot be
    /// determined, they are assumed to.
    fn is_reached(&self, connection: &Connection) -> bool {
        let over = |device: &Device| {
            self.guarded.contains(&device.index)
                || device.name == "lo"
                || device.kind.as_deref().is_some_and(|kind| UPPER_DEVICE_KINDS.contains(&kind))
        };
        if self.guarded.is_empty() {
            return false;
        }
        if connection.ifindex != 0 {
            let device = self.devices.iter().find(|device| device.index == connection.ifindex);
            return device.is_none_or(over);
        }
        let Some(names) = self.addresses.get(&connection.local.ip()) else { return true };
        let mut devices = self.devices.iter().filter(|device| names.contains(&device.name));
        devices.any(over) || !self.devices.iter().any(|device| names.contains(&device.name))
    }

    /// Returns the service that refuses a segment of the peer with these TCP flags; none if it passes.
    fn refuses(
        &self,
        tables: &HostTables<'_>,
        connection: &Connection,
        flags: u8,
    ) -> Option<String> {
        let verdict = verdict(tables, connection, flags);
        (!verdict.passes()).then(|| self.name_in(verdict))
    }

    /// Returns the connections that this policy refuses. A connection whose local address and port
    /// nobody listens on was opened by this node, and no policy touches it.
    pub(crate) fn suspects(
        &self,
        connections: &[Connection],
        listening: &Listeners,
    ) -> Vec<RefusedConnection> {
        let tables = self.policy.host();
        let reached = connections
            .iter()
            .filter(|connection| listening.accept(connection.local) && self.is_reached(connection));
        let suspects = reached.filter_map(|connection| {
            let cut = self.refuses(&tables, connection, FLAGS_ESTABLISHED);
            let (impact, service) = match cut {
                Some(service) => (Impact::Cut, service),
                None => (Impact::NotReopened, self.refuses(&tables, connection, FLAGS_OPENING)?),
            };
            Some(self.refused(*connection, impact, Direction::In, service))
        });
        suspects.collect()
    }

    fn refused(
        &self,
        connection: Connection,
        impact: Impact,
        direction: Direction,
        service: String,
    ) -> RefusedConnection {
        let peer = Addr::from(connection.peer.ip());
        let node = name_of(&self.policy.names, &peer).map(str::to_owned);
        RefusedConnection { connection, impact, direction, service, node }
    }

    /// Returns the connections of others through this node that this policy cuts: it refuses their
    /// packets in one of the directions. `networks`: those of the interfaces of this node.
    pub(crate) fn cuts_of_others(
        &self,
        connections: &[[Passage; 2]],
        networks: &AttachedNetworks,
    ) -> Vec<RefusedConnection> {
        let tables = self.policy.host();
        let cut = connections.iter().filter_map(|directions| {
            directions.iter().find_map(|passage| {
                let service = self.refuses_passage(&tables, passage, networks)?;
                let connection = passage.as_connection();
                Some(self.refused(connection, Impact::Cut, Direction::Through, service))
            })
        });
        cut.collect()
    }

    /// Removes the connections of others that this policy, which is in force, already cuts.
    pub(crate) fn keep_others(
        &self,
        suspects: &mut Vec<RefusedConnection>,
        networks: &AttachedNetworks,
    ) {
        let tables = self.policy.host();
        suspects.retain(|suspect| {
            let Connection { local, peer, .. } = suspect.connection;
            let passage = Passage { from: peer, to: local };
            self.refuses_passage(&tables, &passage, networks).is_none()
        });
    }

    /// Returns the service that refuses packets of others in the middle of a connection; none if they
    /// pass.
    fn refuses_passage(
        &self,
        tables: &HostTables<'_>,
        passage: &Passage,
        networks: &AttachedNetworks,
    ) -> Option<String> {
        let device = networks.device_of(passage.from.ip());
        let device = self.devices.iter().find(|other| Some(other.name.as_str()) == device);
        // A host behind a router may come in anywhere.
        if self.guarded.is_empty() || device.is_some_and(|device| !self.is_guarded(device)) {
            return None;
        }
        let connection = passage.as_connection();
        let verdict = verdict(tables, &connection, FLAGS_ESTABLISHED);
        if verdict.passes() {
            return None;
        }
        let is_local = self.addresses.contains_key(&passage.to.ip());
        let guards = || {
            let slot = verdict.service?;
            let service = self.policy.services.iter().find(|service| service.slot == slot)?;
            service.service.has(Service::GUARDS_FORWARDED).then_some(())
        };
        let family = if passage.to.is_ipv4() { Family::V4 } else { Family::V6 };
        let is_judged = is_local || self.untold.contains(&family) || guards().is_some();
        is_judged.then(|| self.name_in(verdict))
    }

    /// Returns whether frames that a device receives are evaluated by a guard: on the device, its
    /// ports, or a device below it.
    fn is_guarded(&self, device: &Device) -> bool {
        let is = |index: u32| self.guarded.contains(&index);
        is(device.index)
            || device.lies_on().is_some_and(is)
            || device.stacked.controller.is_some_and(is)
            || topology::ports_of(device.index, self.devices).into_iter().any(is)
    }

    fn name_in(&self, verdict: Verdict) -> String {
        self.policy.name_of_service(&verdict).unwrap_or("no service").to_owned()
    }

    /// Removes the connections that this policy, which is in force, already refuses.
    pub(crate) fn keep_passing(&self, suspects: &mut Vec<RefusedConnection>) {
        let tables = self.policy.host();
        suspects.retain(|suspect| {
            let flags =
                if suspect.impact == Impact::Cut { FLAGS_ESTABLISHED } else { FLAGS_OPENING };
            !self.is_reached(&suspect.connection)
                || self.refuses(&tables, &suspect.connection, flags).is_none()
        });
    }
}

/// Returns the verdict on a segment of the peer with these TCP flags.
fn verdict(tables: &HostTables<'_>, connection: &Connection, flags: u8) -> Verdict {
    let Connection { local, peer, .. } = connection;
    let probe = Probe {
        from: (peer.ip(), peer.port()),
        to: (local.ip(), local.port()),
        protocol: wire::PROTO_TCP,
        flags,
        later_fragment: false,
    };
    // Full buckets: a rate limit that is reached for a short time cuts no connection.
    let limiter = HostLimiter::new([0; 2]);
    let frame = probe.frame();
    tables.verdict(&Frame::new(&frame), &limiter)
}

/// Sums up the connections with one effect. `is_session` returns whether the caller may be using a
/// connection.
pub(crate) fn sum_up(
    suspects: &[RefusedConnection],
    impact: Impact,
    names: &[(Addr, String)],
    is_session: impl Fn(&Connection) -> bool,
) -> Affected {
    let mut affected = Affected::default();
    let mut groups: BTreeMap<_, Group> = BTreeMap::new();
    for suspect in suspects.iter().filter(|suspect| suspect.impact == impact) {
        let RefusedConnection { connection, direction, service, .. } = suspect;
        let peer = connection.peer.ip();
        // A source that is no member under the new policy may have been one under the old policy.
        let node = suspect.node.clone();
        let node = node.or_else(|| name_of(names, &Addr::from(peer)).map(str::to_owned));
        let port = connection.local.port();
        let session = is_session(connection);
        affected.connections += 1;
        affected.sessions += u64::from(session);
        let who = node.clone().unwrap_or_else(|| peer.to_string());
        let group = groups.entry((!session, service, port, who)).or_insert(Group {
            connections: 0,
            peer: peer.to_string(),
            node,
            direction: *direction,
            port,
            service: service.clone(),
            session,
        });
        group.connections += 1;
    }
    affected.groups = groups.into_values().take(MAX_GROUPS).collect();
    affected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{self, Bundle, Placement};

    const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: test
interfaces: [eth0]
nodes:
  - { name: node, addresses: [10.0.0.1], roles: [scheduler] }
  - { name: worker, addresses: [10.0.0.2], roles: [worker] }
policies: [policy.yaml]
";

    fn policy(matching: &str, role: &str) -> CompiledPolicy {
        let text = format!(
            "apiVersion: trainguard/v1\nkind: Policy\nname: test\nservices:\n  - name: s\n    \
             roles: [scheduler]\n    ports: [tcp/9091]\n    match: {matching}\n    allow: \
             {{ roles: [{role}] }}\n    mode: enforce\n"
        );
        let bundle = Bundle::new("m.yaml", [("m.yaml", MANIFEST), ("policy.yaml", &text)]);
        let loaded = policy::load(&bundle.manifest, &bundle).expect("a policy");
        let node = &loaded.cluster.nodes[0];
        policy::compile(&loaded, node, &Placement::default()).expect("it fits")
    }

    fn connection(local: &str, peer: &str) -> Connection {
        let [local, peer] = [local, peer].map(|end| end.parse().expect("an address"));
        Connection { local, peer, ifindex: 0, inode: 0 }
    }

    /// Returns the effect of a policy that guards device 2 on connections.
    fn under(policy: &CompiledPolicy, connections: &[Connection]) -> Vec<RefusedConnection> {
        let devices = [
            Device::ethernet(1, "lo", None),
            Device::ethernet(2, "eth0", None),
            Device::ethernet(3, "eth1", None),
            Device::ethernet(4, "bond0", Some("bond")),
            Device::ethernet(5, "tun0", Some("tun")),
        ];
        let addresses = [
            ("10.0.0.1", "eth0"),
            ("10.1.0.1", "eth1"),
            ("10.2.0.1", "bond0"),
            ("10.3.0.1", "tun0"),
            ("10.4.0.1", "lo"),
        ];
        let addresses = addresses.map(|(address, device)| {
            (address.parse().expect("an address"), BTreeSet::from([device.to_owned()]))
        });
        let (addresses, guarded) = (BTreeMap::from(addresses), BTreeSet::from([2]));
        let check = ConnectionCheck {
            policy,
            guarded: &guarded,
            addresses: &addresses,
            devices: &devices,
            untold: &BTreeSet::new(),
        };
        let listener = "[::]:9091".parse().expect("an address");
        check.suspects(connections, &Listeners::of([listener]))
    }

    #[test]
    fn connections_are_reported_only_if_they_may_arrive_through_a_guarded_interface() {
        let refusing = policy("all", "scheduler");
        for (local, reached) in [
            ("10.0.0.1:9091", true),
            ("10.1.0.1:9091", false),
            ("10.2.0.1:9091", true),
            ("10.3.0.1:9091", false),
            ("10.4.0.1:9091", true),
            // An address that no device has any more.
            ("10.5.0.1:9091", true),
        ] {
            let found = under(&refusing, &[connection(local, "10.0.0.2:40000")]);
            assert_eq!(!found.is_empty(), reached, "{local}");
        }
        let mut bound = connection("10.0.0.1:9091", "10.0.0.2:40000");
        bound.ifindex = 3;
        assert!(under(&refusing, &[bound]).is_empty(), "bound to an interface that is not guarded");
        bound.ifindex = 2;
        assert_eq!(under(&refusing, &[bound]).len(), 1);
    }

    #[test]
    fn segments_in_the_middle_decide_cut_and_opening_ones_decide_not_reopened() {
        let open = [
            connection("10.0.0.1:9091", "10.0.0.2:40000"),
            connection("10.0.0.1:9091", "10.0.0.9:40000"),
            connection("10.0.0.1:40000", "10.0.0.9:9091"),
        ];
        let impacts = |policy: &CompiledPolicy| -> Vec<(u16, Impact)> {
            let suspects = under(policy, &open);
            let impact =
                |suspect: &RefusedConnection| (suspect.connection.peer.port(), suspect.impact);
            suspects.iter().map(impact).collect()
        };
        assert_eq!(impacts(&policy("all", "worker")), [(40000, Impact::Cut)]);
        let not_reopened = [(40000, Impact::NotReopened)];
        assert_eq!(impacts(&policy("new-connections", "worker")), not_reopened);
        // A connection that is already refused is not lost.
        let mut suspects = under(&policy("all", "scheduler"), &open);
        assert_eq!(suspects.len(), 2);
        let guarded = BTreeSet::from([2]);
        let before = policy("all", "worker");
        let none = BTreeMap::new();
        let check = ConnectionCheck {
            policy: &before,
            guarded: &guarded,
            addresses: &none,
            devices: &[],
            untold: &BTreeSet::new(),
        };
        check.keep_passing(&mut suspects);
        let [left] = &suspects[..] else { panic!("one: {suspects:?}") };
        assert_eq!(left.connection, open[0]);
        let sum = sum_up(&suspects, Impact::Cut, &[], |_| true);
        let line =
            "1 connection of worker (10.0.0.2) to tcp/9091 (s): an ssh session, probably yours";
        assert_eq!((sum.sessions, sum.lines(9)), (1, vec![line.to_owned()]));
    }

    #[test]
    fn ten_thousand_connections_are_summed_up_in_few_lines() {
        let end = |n: u32| format!("10.9.{}.{}:40000", n / 250, 1 + n % 250);
        let open: Vec<Connection> =
            (0..10_000).map(|n| connection("10.0.0.1:9091", &end(n))).collect();
        let refusing = policy("all", "worker");
        let suspects = under(&refusing, &open);
        assert_eq!(suspects.len(), 10_000);
        let sum = sum_up(&suspects, Impact::Cut, &[], |_| false);
        assert_eq!((sum.connections, sum.groups.len()), (10_000, MAX_GROUPS));
        let lines = sum.lines(3);
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[3], "and 9997 more");
    }

    #[test]
    fn a_session_is_four_words() {
        let session = Session::parse("10.0.0.9 50000 ::ffff:10.0.0.1 22").expect("a session");
        assert!(is_session(&session, &connection("10.0.0.1:22", "10.0.0.9:50000")));
        for bad in ["", "10.0.0.9 50000 10.0.0.1", "a b c d", "10.0.0.9 x 10.0.0.1 22", "1 2 3 4 5"]
        {
            assert_eq!(Session::parse(bad), None, "{bad}");
        }
    }
}
