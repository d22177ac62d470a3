//! Switching offloads of a device in the namespace of this thread, as `ethtool -K` does, which not
//! every machine has: by generic netlink.

use std::{io, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

// From include/uapi/linux/genetlink.h.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
// From include/uapi/linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
// From include/uapi/linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 1 << 15;
/// Bytes of `nlmsghdr` and `genlmsghdr`.
const HEADERS: usize = 20;

/// Switches an offload on or off, by the kernel's name for it (`rx-vlan-hw-parse`).
pub fn switch(device: &str, offload: &str, on: bool) -> Result<()> {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
    let answer = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &name)?;
    let family = value(&answer[HEADERS..], CTRL_ATTR_FAMILY_ID).context("a family `ethtool`")?;
    let family = u16::from_ne_bytes(family.try_into()?);
    let header = attribute(ETHTOOL_A_HEADER_DEV_NAME, &[device.as_bytes(), b"\0"].concat());
    let mut bit = attribute(ETHTOOL_A_BITSET_BIT_NAME, &[offload.as_bytes(), b"\0"].concat());
    if on {
        bit.extend(attribute(ETHTOOL_A_BITSET_BIT_VALUE, &[]));
    }
    let bits = attribute(NESTED | ETHTOOL_A_BITSET_BITS_BIT, &bit);
    let wanted = attribute(NESTED | ETHTOOL_A_BITSET_BITS, &bits);
    let request = [
        attribute(NESTED | ETHTOOL_A_HEADER, &header),
        attribute(NESTED | ETHTOOL_A_FEATURES_WANTED, &wanted),
    ];
    let answer = ask(family, ETHTOOL_MSG_FEATURES_SET, NLM_F_ACK, &request.concat())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    let error = i32::from_ne_bytes(answer[16..20].try_into()?);
    ensure!(
        kind != NLMSG_ERROR || error == 0,
        "{device}: {offload}: {}",
        io::Error::from_raw_os_error(-error)
    );
    Ok(())
}

/// The first message of an answer.
fn ask(family: u16, command: u8, flags: u16, attributes: &[u8]) -> Result<Vec<u8>> {
    let generic = SockProtocol::NetlinkGeneric;
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, generic)?;
    let length = u32::try_from(HEADERS + attributes.len())?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    sendto(kernel.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = vec![0; 1 << 16];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    ensure!(length >= HEADERS, "an answer of {length} bytes");
    answer.truncate(length);
    Ok(answer)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short value");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn value(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}
