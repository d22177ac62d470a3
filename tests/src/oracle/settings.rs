//! Settings of the node's network stack that change while frames are sent.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
};

use crate::node::Node;

/// Values of the settings that change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// `tcp_syncookies`: 0 never, 1 if the queue of requests overflows, 2 always.
    pub cookies: u8,
    /// Whether the node forwards packets, of both families.
    pub forwards: bool,
}

impl Settings {
    /// All combinations.
    pub const ALL: [Self; 6] = [
        Self { cookies: 2, forwards: false },
        Self { cookies: 1, forwards: true },
        Self { cookies: 0, forwards: false },
        Self { cookies: 2, forwards: true },
        Self { cookies: 1, forwards: false },
        Self { cookies: 0, forwards: true },
    ];
}

/// Settings that do not change: those of the namespace, then those of the device. They let in as many
/// odd packets as Linux can be told to, and end the states that odd packets leave after a second.
const FIXED: [(&str, &str); 27] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/eth0/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/route_localnet", "1"),
    ("net/ipv4/conf/eth0/route_localnet", "1"),
    ("net/ipv4/conf/all/accept_source_route", "1"),
    ("net/ipv4/conf/eth0/accept_source_route", "1"),
    ("net/ipv4/conf/all/accept_local", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_source_route", "1"),
    ("net/ipv6/conf/eth0/accept_source_route", "1"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/all/seg6_enabled", "1"),
    ("net/ipv6/conf/eth0/seg6_enabled", "1"),
    ("net/ipv4/ipfrag_time", "1"),
    ("net/ipv4/ipfrag_max_dist", "0"),
    ("net/ipv4/ipfrag_high_thresh", "67108864"),
    ("net/ipv6/ip6frag_time", "1"),
    ("net/ipv6/ip6frag_high_thresh", "67108864"),
    ("net/ipv6/max_dst_opts_number", "64"),
    ("net/ipv6/max_hbh_opts_number", "64"),
    ("net/ipv4/tcp_synack_retries", "0"),
    ("net/ipv4/tcp_max_syn_backlog", "1000000"),
    ("net/core/somaxconn", "1000000"),
    // All listeners accept data of a SYN, without a cookie of Fast Open (0x603).
    ("net/ipv4/tcp_fastopen", "1539"),
    ("net/ipv4/tcp_fastopen_blackhole_timeout_sec", "0"),
    ("net/ipv4/tcp_invalid_ratelimit", "0"),
];

/// The files of the settings that change, opened in the node's namespace.
#[derive(Debug)]
pub struct Switches {
    cookies: File,
    forwards: [File; 2],
    current: Option<Settings>,
}

impl Switches {
    /// Sets what does not change, and opens the other files.
    pub fn new(node: &Node) -> Self {
        node.at_node(|| {
            for (name, value) in FIXED {
                // A kernel without the setting has no such odd packets. It applies to the next packet.
                if let Ok(mut file) = open(name) {
                    let _ = file.write_all(value.as_bytes());
                }
            }
            let must = |name| open(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            let forwards = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"].map(must);
            Self { cookies: must("net/ipv4/tcp_syncookies"), forwards, current: None }
        })
    }

    /// Changes the settings.
    pub fn set(&mut self, settings: Settings) {
        if self.current == Some(settings) {
            return;
        }
        write(&mut self.cookies, settings.cookies);
        if self.current.is_none_or(|current| current.forwards != settings.forwards) {
            for file in &mut self.forwards {
                write(file, settings.forwards.into());
            }
        }
        self.current = Some(settings);
    }

    /// Sets `tcp_syncookies` to 2 until the next change.
    pub fn force_cookies(&mut self) {
        let forwards = self.current.is_some_and(|current| current.forwards);
        self.set(Settings { cookies: 2, forwards });
    }
}

fn open(name: &str) -> std::io::Result<File> {
    File::options().write(true).open(format!("/proc/sys/{name}"))
}

fn write(file: &mut File, value: u8) {
    file.rewind().expect("a setting can be written again");
    write!(file, "{value}").expect("a setting of the namespace");
}
