//! The state of the node in the shared maps: forwarding, rules that deliver packets for other addresses
//! here, own addresses, and the devices at which frames are received.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, TcpListener},
    os::fd::AsFd as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use aya_obj::generated::bpf_map_type;
use guard_common::{
    Addr,
    layout::node::{BOUND_WORDS, DeviceKey, MAX_DEVICES, MAX_OWN, NodeState},
    names,
};
use guard_tests::{
    nft::{self, Hook, Table},
    node::{NODE, Node, WAIT_TIMEOUT},
};
use guard_user::{
    bpf::pinned_maps::node::NodeMaps,
    daemon::node_state::{self, NodeFacts, Obstacle, State, Watcher},
    sys,
};
use nix::sys::socket::{setsockopt, sockopt};

const V4: u64 = NodeState::FORWARDS_IPV4;
const V6: u64 = NodeState::FORWARDS_IPV6;

/// A node without a daemon, its maps, and the thread that writes them.
struct Followed {
    node: Node,
    maps: NodeMaps,
    watcher: Watcher,
}

/// Creates the maps, and starts the thread in the node's namespace.
fn start(test: &str) -> Option<Followed> {
    let node = Node::new(test)?;
    let directory = node.path("bpf");
    for (name, kind, key, value, entries) in [
        (names::MAP_NODE, bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, size_of::<NodeState>(), 1),
        (names::MAP_OWN, bpf_map_type::BPF_MAP_TYPE_HASH, 16, 4, MAX_OWN),
        (names::MAP_DEVICES, bpf_map_type::BPF_MAP_TYPE_HASH, 24, 4, MAX_DEVICES),
        (names::MAP_BOUND, bpf_map_type::BPF_MAP_TYPE_ARRAY, 4, 8, BOUND_WORDS),
    ] {
        let value = u32::try_from(value).expect("a small value");
        let map = sys::map_create(kind, key, value, entries).expect("a map");
        sys::pin(map.as_fd(), &directory.join(name)).expect("a pin");
    }
    let open = || NodeMaps::open(&directory).expect("the maps");
    let watcher = node.at_node(|| node_state::start(open())).expect("the thread");
    Some(Followed { maps: open(), node, watcher })
}

/// Waits until the maps satisfy a condition.
fn wait(followed: &Followed, what: &str, wanted: impl Fn(&NodeMaps) -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !wanted(&followed.maps) {
        let (state, watcher) = (followed.maps.state(), &followed.watcher);
        assert!(Instant::now() < deadline, "{what}: {state:?} {watcher:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn wait_for_flags(followed: &Followed, what: &str, flags: u64) {
    wait(followed, what, |maps| maps.state().expect("the state").flags & (V4 | V6) == flags);
}

fn set(node: &Node, setting: &str, value: &str) {
    let path = format!("/proc/sys/net/{setting}");
    node.at_node(|| fs::write(path, value).expect("a setting of the namespace"));
}

fn facts(node: &Node) -> NodeFacts {
    node.at_node(NodeFacts::read)
}

#[test]
fn the_flags_follow_the_forwarding_settings() {
    let Some(followed) = start("node_state/forwarding") else { return };
    let node = &followed.node;
    wait_for_flags(&followed, "nothing is forwarded", 0);
    set(node, "ipv4/ip_forward", "1");
    wait_for_flags(&followed, "IPv4 is forwarded", V4);
    set(node, "ipv6/conf/all/forwarding", "1");
    wait_for_flags(&followed, "both are forwarded", V4 | V6);
    set(node, "ipv6/conf/eth0/forwarding", "0");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while facts(node).mixed_ipv6 != ["eth0"] {
        assert!(Instant::now() < deadline, "{:?}", facts(node));
    }
    set(node, "ipv4/ip_forward", "0");
    wait_for_flags(&followed, "only IPv6 is forwarded", V6);
    set(node, "ipv4/conf/eth0/forwarding", "1");
    wait_for_flags(&followed, "one interface forwards IPv4", V4 | V6);
    set(node, "ipv6/conf/all/forwarding", "0");
    wait_for_flags(&followed, "only IPv4 is forwarded", V4);
    // Since Linux 6.17 an interface can forward IPv6 on its own.
    let forced = "ipv6/conf/eth0/force_forwarding";
    if node.at_node(|| fs::exists(format!("/proc/sys/net/{forced}")).is_ok_and(|exists| exists)) {
        set(node, forced, "1");
        wait_for_flags(&followed, "one interface forwards IPv6", V4 | V6);
        set(node, forced, "0");
        wait_for_flags(&followed, "none does", V4);
    }
}

#[test]
fn rules_that_deliver_packets_here_clear_the_flags() {
    let Some(followed) = start("node_state/rules") else { return };
    let Followed { node, watcher, .. } = &followed;
    set(node, "ipv4/ip_forward", "1");
    set(node, "ipv6/conf/all/forwarding", "1");
    wait_for_flags(&followed, "both are forwarded", V4 | V6);

    let rule = ["rule", "add", "fwmark", "1", "lookup", "100"];
    node.ip(&rule);
    wait_for_flags(&followed, "an IPv4 rule by mark", V6);
    assert_eq!(facts(node).obstacles_ipv4, [Obstacle::RuleByMark]);
    node.ip(&[&["-6"], &rule[..]].concat());
    wait_for_flags(&followed, "an IPv6 rule by mark, too", 0);
    node.ip(&["rule", "del", "fwmark", "1", "lookup", "100"]);
    wait_for_flags(&followed, "only an IPv6 rule by mark", V4);
    node.ip(&["-6", "rule", "del", "fwmark", "1", "lookup", "100"]);
    wait_for_flags(&followed, "no rule by mark", V4 | V6);
    node.ip(&["rule", "add", "from", "10.9.0.0/16", "lookup", "100"]);

    let masquerades = Table { family: nft::IPV4, name: "t" };
    let redirects = Table { family: nft::IPV4, name: "r" };
    node.at_node(|| {
        nft::transact(&[
            masquerades.create(),
            masquerades.chain("nat", Hook::Postrouting),
            masquerades.rule(&[nft::expression("masq", &[])]),
        ])
    })
    .expect("nf_tables");
    // Notifications are handled in their order.
    node.at_node(|| {
        nft::transact(&[
            redirects.create(),
            redirects.chain("nat", Hook::Prerouting),
            redirects.rule(&[nft::expression("redir", &[])]),
        ])
    })
    .expect("nf_tables");
    wait_for_flags(&followed, "an IPv4 redirect", V6);
    let found = facts(node);
    assert!(matches!(&found.obstacles_ipv4[..], [Obstacle::Redirect(place)] if place.chain == "c"));
    assert!(found.masquerade && !found.dnat, "{found:?}");
    node.at_node(|| nft::transact(&[redirects.delete()])).expect("nf_tables");
    wait_for_flags(&followed, "no redirect", V4 | V6);
    assert_eq!(watcher.state(), State::Following);
}

#[test]
fn own_addresses_and_devices_follow_the_interfaces() {
    let Some(followed) = start("node_state/devices") else { return };
    let Followed { node, maps, watcher } = &followed;
    let holds = |maps: &NodeMaps, address: &str| {
        let address = Addr::from(address.parse::<IpAddr>().expect("an address"));
        let is_own = maps.own().expect("the addresses").contains(&address.mapped());
        is_own && maps.state().expect("the state").may_own(&address)
    };
    let first = NODE.map(|address| address.to_string());
    for address in first.iter().map(String::as_str).chain(["127.0.0.1", "::1"]) {
        assert!(holds(maps, address), "{address}: before the first packet is evaluated");
    }
    node.ip(&["addr", "add", "10.88.0.1/24", "dev", "eth0"]);
    wait(&followed, "an address more", |maps| holds(maps, "10.88.0.1"));
    node.ip(&["route", "add", "local", "10.88.1.1/32", "dev", "lo"]);
    node.ip(&["route", "add", "local", "10.89.0.0/16", "dev", "lo"]);
    wait(&followed, "a local route", |maps| holds(maps, "10.88.1.1"));
    assert!(!holds(maps, "10.89.0.0"), "a prefix");
    // An address at two devices stays until both lose it.
    node.ip(&["addr", "add", "10.88.0.1/32", "dev", "lo"]);
    node.ip(&["addr", "del", "10.88.0.1/24", "dev", "eth0"]);
    node.ip(&["route", "del", "local", "10.88.1.1/32", "dev", "lo"]);
    wait(&followed, "no local route", |maps| !holds(maps, "10.88.1.1"));
    assert!(holds(maps, "10.88.0.1"));
    node.ip(&["addr", "del", "10.88.0.1/32", "dev", "lo"]);
    wait(&followed, "no such address", |maps| !holds(maps, "10.88.0.1"));

    let device = |name: &str| {
        node.at_node(|| {
            let digits = address_of(name).replace(':', "");
            let index = nix::net::if_::if_nametoindex(name).expect("a device");
            (u64::from_str_radix(&digits, 16).expect("an address"), index)
        })
    };
    let (mac, eth0) = device("eth0");
    let key = |mac| DeviceKey { mac, outer: 0, inner: 0, ifindex: eth0, zero: 0 };
    let receiver =
        |maps: &NodeMaps, mac| maps.devices().expect("the devices").get(&key(mac)).copied();
    assert_eq!(receiver(maps, mac), Some(eth0));
    node.ip(&["link", "set", "eth0", "address", "02:00:00:00:77:01"]);
    wait(&followed, "another address", |maps| {
        receiver(maps, 0x0200_0000_7701) == Some(eth0) && receiver(maps, mac).is_none()
    });
    let add = ["link", "add", "mv0", "link", "eth0", "address", "02:00:00:00:77:02"];
    let output = Command::new("ip")
        .args(["-n", node.namespace()])
        .args(add)
        .args(["type", "macvlan"])
        .output()
        .expect("ip");
    if output.status.success() {
        let (mac, mv0) = device("mv0");
        wait(&followed, "a macvlan", |maps| receiver(maps, mac) == Some(mv0));
        node.ip(&["link", "del", "mv0"]);
        wait(&followed, "no macvlan", |maps| receiver(maps, mac).is_none());
    }
    assert_eq!(receiver(maps, 0x0200_0000_7701), Some(eth0));

    // The usual case of a guarded interface is found without the map.
    let is_plain = |maps: &NodeMaps, mac| maps.state().expect("the state").is_plain(mac, eth0);
    assert!(!is_plain(maps, 0x0200_0000_7701), "not guarded");
    watcher.set_guarded(&BTreeSet::from([eth0]));
    wait(&followed, "a guarded interface", |maps| is_plain(maps, 0x0200_0000_7701));
    node.ip(&["link", "set", "eth0", "address", "02:00:00:00:77:03"]);
    wait(&followed, "its new address", |maps| {
        is_plain(maps, 0x0200_0000_7703) && !is_plain(maps, 0x0200_0000_7701)
    });
}

#[test]
fn listeners_bound_to_a_device_are_marked_unless_it_is_guarded() {
    let Some(followed) = start("node_state/bound") else { return };
    let Followed { node, watcher, .. } = &followed;
    let eth0 = node.at_node(|| nix::net::if_::if_nametoindex("eth0").expect("a device"));
    let (listener, port) = node.at_node(|| {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        setsockopt(&listener, sockopt::BindToDevice, &"eth0".into()).expect("binding");
        (listener, port)
    });
    let is_marked = |maps: &NodeMaps| {
        let word = maps.bound().expect("the bits")[usize::from(port >> 6)];
        let flags = maps.state().expect("the state").flags;
        word >> (port & 63) & 1 != 0 && flags & NodeState::BOUND_LISTENERS != 0
    };
    wait(&followed, "a bound listener", is_marked);
    assert_eq!(watcher.facts().bound_ports.iter().copied().collect::<Vec<_>>(), [port]);
    watcher.set_guarded(&BTreeSet::from([eth0]));
    wait(&followed, "the device is guarded", |maps| !is_marked(maps));
    watcher.set_guarded(&BTreeSet::new());
    wait(&followed, "the device is not guarded", is_marked);
    drop(listener);
    wait(&followed, "no listener", |maps| {
        !is_marked(maps) && maps.bound().expect("the bits").iter().all(|word| *word == 0)
    });
}

/// A daemon that starts finds what an earlier one has left, and corrects it.
#[test]
fn what_an_earlier_daemon_left_is_corrected() {
    let Some(followed) = start("node_state/earlier") else { return };
    let Followed { node, mut maps, watcher } = followed;
    drop(watcher);
    let stale = DeviceKey { mac: 1, outer: 0, inner: 0, ifindex: 7, zero: 0 };
    maps.add_own([1, 2]).expect("an address");
    maps.set_device(stale, 7).expect("a device");
    maps.set_bound(9, 1).expect("a bit");
    maps.set_state(NodeState {
        flags: V4 | V6 | NodeState::BOUND_LISTENERS,
        own: [u64::MAX; 4],
        plain: [u64::MAX; 8],
    })
    .expect("the state");
    let directory = node.path("bpf");
    let again = || NodeMaps::open(&directory).expect("the maps");
    let _watcher = node.at_node(|| node_state::start(again())).expect("the thread");
    // Everything is written when the function returns.
    assert_eq!(maps.state().expect("the state").flags, 0);
    assert_ne!(maps.state().expect("the state").own, [u64::MAX; 4]);
    assert_eq!(maps.state().expect("the state").plain, [0; 8], "no interface is guarded yet");
    assert!(!maps.own().expect("the addresses").contains(&[1, 2]));
    assert!(!maps.devices().expect("the devices").contains_key(&stale));
    assert!(maps.bound().expect("the bits").iter().all(|word| *word == 0));
}

/// Returns the Ethernet address of a device as `ip` shows it: `/sys` shows the devices of the namespace
/// in which it was mounted.
fn address_of(name: &str) -> String {
    let output = Command::new("ip").args(["-br", "link", "show", name]).output().expect("ip");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().nth(2).expect("an address").to_owned()
}
