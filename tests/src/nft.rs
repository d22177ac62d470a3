//! Rules of `nf_tables` by netlink, for machines without `nft`.
//!
//! Numbers are those of `include/uapi/linux/netfilter/nf_tables.h`. A namespace takes its rules with it.

use std::{io, os::fd::AsRawFd as _};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

/// `NFPROTO_IPV4`.
pub const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
pub const IPV6: u8 = 10;
/// `NLM_F_CREATE | NLM_F_APPEND`.
const CREATE: u16 = 0xc00;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Name of the chain of a table.
const CHAIN: &str = "c";

/// A table with at most one chain.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// [`IPV4`] or [`IPV6`].
    pub family: u8,
    /// Name of the table.
    pub name: &'static str,
}

/// The hook of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting = 0,
    /// After routing.
    Postrouting = 4,
}

impl Table {
    /// Returns the message that creates the table.
    pub fn create(&self) -> Vec<u8> {
        self.message(0xa00, CREATE, &[text(1, self.name)])
    }

    /// Returns the message that deletes the table with its rules.
    pub fn delete(&self) -> Vec<u8> {
        self.message(0xa02, 0, &[text(1, self.name)])
    }

    /// Returns the message that creates the chain. `kind` is `nat` or `filter`.
    pub fn chain(&self, kind: &str, hook: Hook) -> Vec<u8> {
        let hook = (hook as u32).to_be_bytes();
        let place = [attribute(1, &hook), attribute(2, &(-100_i32).to_be_bytes())].concat();
        let hook = attribute(4 | NESTED, &place);
        self.message(0xa03, CREATE, &[text(1, self.name), text(3, CHAIN), hook, text(7, kind)])
    }

    /// Returns the message that adds a rule of these expressions.
    pub fn rule(&self, expressions: &[Vec<u8>]) -> Vec<u8> {
        let list = attribute(4 | NESTED, &expressions.concat());
        self.message(0xa06, CREATE, &[text(1, self.name), text(2, CHAIN), list])
    }

    fn message(&self, kind: u16, flags: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        message(kind, flags, [self.family, 0, 0, 0], attributes)
    }
}

/// Encodes an expression of a rule.
pub fn expression(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let parts = [text(1, name), attribute(2 | NESTED, &attributes.concat())].concat();
    attribute(1 | NESTED, &parts)
}

/// Encodes the two expressions that give packets to a transparent socket on a port.
pub fn tproxy(family: u8, port: u16) -> [Vec<u8>; 2] {
    // `NFT_REG_1`.
    let register = 1_u32.to_be_bytes();
    let value = attribute(1, &port.to_be_bytes());
    let load = [attribute(1, &register), attribute(2 | NESTED, &value)];
    let family = u32::from(family).to_be_bytes();
    let place = [attribute(1, &family), attribute(3, &register)];
    [expression("immediate", &load), expression("tproxy", &place)]
}

/// Executes messages as one transaction in the namespace of this thread.
///
/// # Errors
/// The kernel refuses a message; none has an effect then.
pub fn transact(messages: &[Vec<u8>]) -> io::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    // `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END`, for the subsystem 10.
    let [begin, end] = [0x10, 0x11].map(|kind| message(kind, 0, [0, 0, 0, 10], &[]));
    let batch = [begin, messages.concat(), end].concat();
    send(socket.as_raw_fd(), &batch, MsgFlags::empty())?;
    let mut answer = [0; 4096];
    for _ in messages {
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let error = answer.get(16..20).filter(|_| length >= 20).expect("an answer");
        match i32::from_ne_bytes(error.try_into().expect("four bytes")) {
            0 => {}
            error => return Err(io::Error::from_raw_os_error(-error)),
        }
    }
    Ok(())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short value");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), b"\0"].concat())
}

/// Encodes a message of nfnetlink: type and flags beyond `NLM_F_REQUEST | NLM_F_ACK`.
fn message(kind: u16, flags: u16, header: [u8; 4], attributes: &[Vec<u8>]) -> Vec<u8> {
    let attributes = attributes.concat();
    let length = u32::try_from(20 + attributes.len()).expect("a short message");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | 1 | 4).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(header);
    bytes.extend(attributes);
    bytes
}
