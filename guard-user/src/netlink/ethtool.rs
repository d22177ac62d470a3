//! Capabilities and settings of network cards and drivers that affect frames before XDP sees them,
//! queried with generic netlink. This requires no permissions.
//!
//! Each query uses its own socket. The families queried here answer with a dump whose parts are not
//! marked as such (`NLM_F_MULTI`), and generic netlink clients stop reading such a dump too early.

use std::{collections::BTreeMap, io, os::fd::AsFd as _};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike as _},
};
use rtnetlink::{
    packet_core::{
        NLA_F_NESTED, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlaBuffer,
        NlasIterator,
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC},
};
use serde::Serialize;

use super::sock_diag::decode_error;
use crate::system_error::SystemError;

/// Timeout for each part of an answer, in milliseconds.
const ANSWER_TIMEOUT_MS: i64 = 500;
/// Size of the receive buffer in bytes: the maximum size of a part of an answer (`netlink_dump`,
/// `net/netlink/af_netlink.c`).
const BUFFER_BYTES: usize = 32 * 1024;
/// Size of the headers in front of a request, in bytes: `nlmsghdr` and `genlmsghdr`.
const HEADERS: usize = 20;

/// Offloads that merge several frames into one before a program sees them: the name in the kernel,
/// and the name for `ethtool -K`.
pub const MERGING: [(&str, &str); 2] = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];
/// The offload that removes VLAN tags, likewise.
pub const VLAN_PARSE: (&str, &str) = ("rx-vlan-hw-parse", "rxvlan");

// From include/uapi/linux/genetlink.h.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
// From include/uapi/linux/netdev.h.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1 << 0;
const NETDEV_XDP_ACT_RX_SG: u64 = 1 << 5;
// From include/uapi/linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
/// The first attribute of each ethtool message.
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;

/// Support of a driver for XDP (`enum netdev_xdp_act`; since Linux 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct XdpSupport {
    /// Whether the driver runs programs.
    pub native: bool,
    /// Whether it also runs them on frames in several buffers.
    pub several_buffers: bool,
}

/// Returns the XDP support of all devices, by index.
///
/// # Errors
/// `ENOENT` before Linux 6.3.
pub fn xdp_support() -> Result<BTreeMap<u32, XdpSupport>, SystemError> {
    let mut found = BTreeMap::new();
    query_dump("the XDP support of drivers", "netdev", NETDEV_CMD_DEV_GET, &[], |answer| {
        let acts = answer.number(NETDEV_A_DEV_XDP_FEATURES).map(u64::from_ne_bytes);
        let index = answer.number(NETDEV_A_DEV_IFINDEX).map(u32::from_ne_bytes);
        if let (Some(index), Some(acts)) = (index, acts) {
            let support = XdpSupport {
                native: acts & NETDEV_XDP_ACT_BASIC != 0,
                several_buffers: acts & NETDEV_XDP_ACT_RX_SG != 0,
            };
            found.insert(index, support);
        }
    })?;
    Ok(found)
}

/// Returns the enabled offloads of all devices, by index. The names are those of the kernel
/// (`rx-lro`), sorted.
///
/// # Errors
/// `ENOENT` if the kernel has no ethtool netlink interface (before Linux 5.6, or without
/// `CONFIG_ETHTOOL_NETLINK`).
pub fn offloads() -> Result<BTreeMap<u32, Vec<String>>, SystemError> {
    let mut found = BTreeMap::new();
    query_ethtool("the offloads of all devices", ETHTOOL_MSG_FEATURES_GET, |index, answer| {
        found.insert(index, switched_on(answer));
    })?;
    Ok(found)
}

/// Returns the enabled offloads of some devices, likewise. For frequent queries: the list of all
/// devices is long on a machine with many containers. Devices that do not exist are left out.
///
/// # Errors
/// Like those of [`offloads`].
pub fn offloads_of(
    devices: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, Vec<String>>, SystemError> {
    let run = || {
        let mut found = BTreeMap::new();
        let (socket, family) = open("ethtool")?;
        for index in devices {
            let header = attribute(ETHTOOL_A_HEADER_DEV_INDEX, &index.to_ne_bytes());
            let header = attribute(ETHTOOL_A_HEADER | NLA_F_NESTED, &header);
            let answer =
                exchange(&socket, family, ETHTOOL_MSG_FEATURES_GET, 0, &header, |answer| {
                    found.insert(index, switched_on(answer));
                });
            match answer {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                answer => answer?,
            }
        }
        Ok(found)
    };
    run().map_err(|error: io::Error| SystemError::of("querying offloads", error))
}

fn switched_on(answer: Attributes<'_>) -> Vec<String> {
    let bits = answer.inside(ETHTOOL_A_FEATURES_ACTIVE).inside(ETHTOOL_A_BITSET_BITS);
    // A bitset without a mask lists the bits that are set.
    let names = bits.all().filter_map(|(_, bit)| {
        let name = Attributes(bit).value(ETHTOOL_A_BITSET_BIT_NAME)?;
        Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names
}

/// Returns the number of receive queues of all devices, by index. Devices whose driver does not
/// report it are left out.
///
/// # Errors
/// Like those of [`offloads`].
pub fn receive_queues() -> Result<BTreeMap<u32, u32>, SystemError> {
    let mut found = BTreeMap::new();
    query_ethtool("the queues of all devices", ETHTOOL_MSG_CHANNELS_GET, |index, answer| {
        // Combined channels also receive.
        let counts = [ETHTOOL_A_CHANNELS_RX_COUNT, ETHTOOL_A_CHANNELS_COMBINED_COUNT]
            .map(|kind| answer.number(kind).map_or(0, u32::from_ne_bytes));
        found.insert(index, counts.into_iter().fold(0, u32::saturating_add));
    })?;
    found.retain(|_, queues| *queues > 0);
    Ok(found)
}

fn query_ethtool(
    what: &str,
    command: u8,
    mut each: impl FnMut(u32, Attributes<'_>),
) -> Result<(), SystemError> {
    // An empty header selects all devices.
    let header = attribute(ETHTOOL_A_HEADER | NLA_F_NESTED, &[]);
    query_dump(what, "ethtool", command, &header, |answer| {
        let header = answer.inside(ETHTOOL_A_HEADER);
        if let Some(index) = header.number(ETHTOOL_A_HEADER_DEV_INDEX) {
            each(u32::from_ne_bytes(index), answer);
        }
    })
}

/// Requests a dump from a family, and passes each part of the answer to `each`.
fn query_dump(
    what: &str,
    family: &str,
    command: u8,
    attributes: &[u8],
    each: impl FnMut(Attributes<'_>),
) -> Result<(), SystemError> {
    let run = || {
        let (socket, id) = open(family)?;
        exchange(&socket, id, command, NLM_F_DUMP, attributes, each)
    };
    run().map_err(|error: io::Error| {
        SystemError::of(format_args!("querying {what} (generic netlink, `{family}`)"), error)
    })
}

/// Opens a socket, and looks up the id of a family.
fn open(family: &str) -> io::Result<(Socket, u16)> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    setsockopt(
        &socket.as_fd(),
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(ANSWER_TIMEOUT_MS),
    )?;
    let name = attribute(CTRL_ATTR_FAMILY_NAME, &[family.as_bytes(), b"\0"].concat());
    let mut id = None;
    exchange(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &name, |answer| {
        id = answer.number(CTRL_ATTR_FAMILY_ID).map(u16::from_ne_bytes);
    })?;
    Ok((socket, id.ok_or(io::ErrorKind::NotFound)?))
}

/// Sends a request, and passes the answer to `each`: one message, or all parts of a dump.
fn exchange(
    socket: &Socket,
    family: u16,
    command: u8,
    flags: u16,
    attributes: &[u8],
    mut each: impl FnMut(Attributes<'_>),
) -> io::Result<()> {
    let length = u32::try_from(HEADERS + attributes.len()).map_err(io::Error::other)?;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port id, which may be 0; then command, version and two reserved bytes.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(decode_error(message.payload())),
                _ => each(Attributes(message.payload().get(4..).unwrap_or_default())),
            }
            // Messages are aligned to four bytes.
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(());
        }
    }
}

/// Encodes an attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Received attributes. Attributes after a malformed one are ignored.
#[derive(Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).map(|attribute: NlaBuffer<&'a [u8]>| {
            let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
            // The value follows length and kind.
            (kind, attribute.into_inner().get(4..length).unwrap_or_default())
        })
    }

    fn value(self, wanted: u16) -> Option<&'a [u8]> {
        self.all().find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    fn number<const N: usize>(self, kind: u16) -> Option<[u8; N]> {
        self.value(kind)?.try_into().ok()
    }

    /// Returns the attributes nested in an attribute; an empty list if it is missing.
    fn inside(self, kind: u16) -> Self {
        Self(self.value(kind).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_each_query() {
        // The loopback device exists in every namespace, with index 1.
        let offloads = offloads().expect("offloads");
        let on = offloads.get(&1).expect("the loopback device");
        assert!(on.iter().any(|name| name == "loopback"), "{on:?}");
        assert!(!on.iter().any(|name| name == "rx-lro"), "{on:?}");
        let one = offloads_of([1, u32::MAX]).expect("offloads");
        assert_eq!(one, BTreeMap::from([(1, on.clone())]));
        receive_queues().expect("queues");
        match xdp_support() {
            Ok(xdp) => assert_eq!(xdp.get(&1).map(|support| support.native), Some(false)),
            // Before Linux 6.3.
            Err(error) => assert!(error.to_string().contains("netdev"), "{error}"),
        }
    }
}
