//! Switching the offloads of a device, as `ethtool -K` does, over generic netlink
//! (Documentation/networking/ethtool-netlink.rst). No crate that we know can do it.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::lab::End;

/// Receivers put segments together before the stack sees them.
pub const GRO: &[&str] = &["rx-gro"];
/// Senders leave cutting into segments to the device.
pub const TSO: &[&str] = &[
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
];

// include/uapi/linux/netlink.h, genetlink.h, ethtool_netlink.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// Switches offloads of a device on or off.
pub fn set(end: &End, names: &[&str], on: bool) -> Result<()> {
    let done = end.inside(|| {
        let protocol = Protocol::from(libc::NETLINK_GENERIC);
        let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
        let family = family(&socket)?;
        let request = request(&end.device, names, on);
        ask(&socket, family, ETHTOOL_MSG_FEATURES_SET, &request).map(drop)
    });
    done.with_context(|| format!("switching {names:?} of `{}`", end.device))
}

/// Number of the family of messages.
fn family(socket: &Socket) -> Result<u16> {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
    let mut answer = ask(socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
    // Headers of netlink and of generic netlink.
    let mut rest = answer.split_off(answer.len().min(20));
    while let [len0, len1, kind0, kind1, ..] = rest[..] {
        let len = usize::from(u16::from_ne_bytes([len0, len1]));
        if let (CTRL_ATTR_FAMILY_ID, Some(&[low, high])) =
            (u16::from_ne_bytes([kind0, kind1]), rest.get(4..6).and_then(|id| id.first_chunk()))
        {
            return Ok(u16::from_ne_bytes([low, high]));
        }
        rest.drain(..len.next_multiple_of(4).clamp(4, rest.len()));
    }
    bail!("this kernel has no ethtool over netlink")
}

fn request(device: &str, names: &[&str], on: bool) -> Vec<u8> {
    let device = [device.as_bytes(), b"\0"].concat();
    let header = [
        attribute(ETHTOOL_A_HEADER_DEV_NAME, &device),
        attribute(ETHTOOL_A_HEADER_FLAGS, &ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes()),
    ];
    let bits = names.iter().map(|name| {
        let name = [name.as_bytes(), b"\0"].concat();
        let value = if on { attribute(ETHTOOL_A_BITSET_BIT_VALUE, &[]) } else { Vec::new() };
        let bit = [attribute(ETHTOOL_A_BITSET_BIT_NAME, &name), value].concat();
        attribute(ETHTOOL_A_BITSET_BITS_BIT | NLA_F_NESTED, &bit)
    });
    let bits: Vec<u8> = bits.flatten().collect();
    let wanted = attribute(ETHTOOL_A_BITSET_BITS | NLA_F_NESTED, &bits);
    [
        attribute(ETHTOOL_A_FEATURES_HEADER | NLA_F_NESTED, &header.concat()),
        attribute(ETHTOOL_A_FEATURES_WANTED | NLA_F_NESTED, &wanted),
    ]
    .concat()
}

/// An attribute: its length, its kind, its value, up to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a request; the answer.
fn ask(mut socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> Result<Vec<u8>> {
    let len = u32::try_from(20 + attributes.len())?;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    // What is asked for is an answer; what is done has none but that it was done.
    let flags = if family == GENL_ID_CTRL { NLM_F_REQUEST } else { NLM_F_REQUEST | NLM_F_ACK };
    message.extend(flags.to_ne_bytes());
    // Sequence, port, then the command and its version.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    socket.write_all(&message)?;
    let mut answer = vec![0; 8192];
    let len = socket.read(&mut answer)?;
    answer.truncate(len);
    match answer.get(4..20).and_then(|rest| rest.first_chunk::<16>()) {
        Some(rest) if u16::from_ne_bytes([rest[0], rest[1]]) == NLMSG_ERROR => {
            let [.., a, b, c, d] = *rest;
            match i32::from_ne_bytes([a, b, c, d]) {
                0 => Ok(answer),
                errno => Err(std::io::Error::from_raw_os_error(-errno).into()),
            }
        }
        Some(_) => Ok(answer),
        None => bail!("half an answer"),
    }
}
