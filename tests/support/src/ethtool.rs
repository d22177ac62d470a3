//! Switches the offloads of a device in this thread's network namespace, as `ethtool -K` does, over
//! generic netlink (`Documentation/networking/ethtool-netlink.rst`). The tool is not installed on every
//! machine, and no known crate sends these messages.

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
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
// From include/uapi/linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const NESTED: u16 = 1 << 15;
/// Length of `nlmsghdr` and `genlmsghdr` in bytes.
const HEADERS: usize = 20;

/// Switches offloads on or off, given by the kernel's names (`rx-vlan-hw-parse`).
pub fn switch(device: &str, offloads: &[&str], on: bool) -> Result<()> {
    set_features(device, offloads, on)
        .with_context(|| format!("switching {offloads:?} of `{device}`"))
}

fn set_features(device: &str, offloads: &[&str], on: bool) -> Result<()> {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
    let answer = ask(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 0, &name)?;
    let family = value(&answer[HEADERS..], CTRL_ATTR_FAMILY_ID)
        .context("this kernel has no ethtool family of generic netlink")?;
    let family = u16::from_ne_bytes(family.try_into()?);
    ask(family, ETHTOOL_MSG_FEATURES_SET, NLM_F_ACK, &request(device, offloads, on)).map(drop)
}

fn request(device: &str, offloads: &[&str], on: bool) -> Vec<u8> {
    let header = [
        attribute(ETHTOOL_A_HEADER_DEV_NAME, &[device.as_bytes(), b"\0"].concat()),
        attribute(ETHTOOL_A_HEADER_FLAGS, &ETHTOOL_FLAG_OMIT_REPLY.to_ne_bytes()),
    ];
    let bits = offloads.iter().flat_map(|offload| {
        let mut bit = attribute(ETHTOOL_A_BITSET_BIT_NAME, &[offload.as_bytes(), b"\0"].concat());
        if on {
            bit.extend(attribute(ETHTOOL_A_BITSET_BIT_VALUE, &[]));
        }
        attribute(NESTED | ETHTOOL_A_BITSET_BITS_BIT, &bit)
    });
    let wanted = attribute(NESTED | ETHTOOL_A_BITSET_BITS, &bits.collect::<Vec<u8>>());
    [
        attribute(NESTED | ETHTOOL_A_FEATURES_HEADER, &header.concat()),
        attribute(NESTED | ETHTOOL_A_FEATURES_WANTED, &wanted),
    ]
    .concat()
}

/// Sends a request and returns the first message of the response.
fn ask(family: u16, command: u8, flags: u16, attributes: &[u8]) -> Result<Vec<u8>> {
    let generic = SockProtocol::NetlinkGeneric;
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, generic)?;
    let length = u32::try_from(HEADERS + attributes.len())?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and port, then the command and its version.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    sendto(kernel.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = vec![0; 1 << 16];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    ensure!(
        length >= HEADERS,
        "the kernel's answer has {length} bytes, expected at least {HEADERS}"
    );
    answer.truncate(length);
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    // 0 means success.
    let errno = i32::from_ne_bytes(answer[16..20].try_into()?);
    if kind == NLMSG_ERROR && errno != 0 {
        return Err(io::Error::from_raw_os_error(-errno).into());
    }
    Ok(answer)
}

/// Returns an attribute: length, kind and value, padded to a multiple of four bytes.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_device_is_an_error() {
        let error = switch("no-such-device0", &["rx-gro"], true).expect_err("no such device");
        assert!(error.to_string().contains("no-such-device0"), "{error:#}");
    }
}
