//! Addresses and prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use guard_common::Addr;
use ipnetwork::{Ipv4Network, Ipv6Network};

use super::lexical::digits;
use crate::{
    compiled::Prefix,
    syntax::{rules, text, walk::Fault},
};

/// A prefix of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cidr {
    /// An IPv4 prefix.
    V4(Prefix<[u8; 4]>),
    /// An IPv6 prefix.
    V6(Prefix<[u8; 16]>),
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4(prefix) => write!(f, "{}/{}", Ipv4Addr::from(prefix.addr), prefix.len),
            Self::V6(prefix) => write!(f, "{}/{}", Ipv6Addr::from(prefix.addr), prefix.len),
        }
    }
}

/// Parses an address in its usual notation. Zones and IPv4-mapped addresses are errors.
fn ip(text: &str) -> Result<IpAddr, Fault> {
    let shown = text::shown(text);
    if text.contains('%') {
        let message = format!("`{shown}` has a zone; a zone is valid on one host only");
        return Err(Fault::new(rules::ADDRESS, message).help("write the address without `%...`"));
    }
    if text.contains(':') {
        let found: Ipv6Addr = text.parse().map_err(|_invalid| {
            Fault::new(rules::ADDRESS, format!("`{shown}` is not an IPv6 address"))
        })?;
        if let Some(mapped) = found.to_ipv4_mapped() {
            let message = format!("`{shown}` is an IPv4-mapped IPv6 address");
            return Err(Fault::new(rules::ADDRESS, message)
                .help(format!("write {mapped}"))
                .instead(mapped.to_string()));
        }
        return Ok(found.into());
    }
    text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_invalid| {
        let fault = |message: String| Fault::new(rules::ADDRESS, message);
        let octets: Vec<&str> = text.split('.').collect();
        let numeric = octets.iter().all(|o| o.bytes().all(|b| b.is_ascii_digit()));
        if let Some(list) = range_as_host_list(text) {
            return fault(format!("`{shown}` is not an address"))
                .help(format!("write several addresses as \"{list}\", in quotes"));
        }
        if !numeric {
            return fault(format!("`{shown}` is not an address")).help(
                "write addresses; names are not resolved, because DNS would decide who is admitted",
            );
        }
        let padded = |o: &&str| o.len() > 1 && o.starts_with('0');
        if octets.len() == 4 && octets.iter().any(padded) {
            return fault(format!(
                "`{shown}` has leading zeros, which some readers take for octal"
            ))
            .help("write each number without leading zeros");
        }
        fault(format!("`{shown}` is not an IPv4 address"))
            .help("write four numbers from 0 to 255, separated by dots")
    })
}

/// Returns `10.0.0.1-9` or `10.0.0.1-10.0.0.9` as the host list `10.0.0.[1-9]`, for a hint.
fn range_as_host_list(text: &str) -> Option<String> {
    let (first, last) = text.split_once('-')?;
    let first = first.parse::<Ipv4Addr>().ok()?;
    let octets = first.octets();
    let last = match last.parse::<Ipv4Addr>() {
        Ok(last) if last.octets()[..3] == octets[..3] => last.octets()[3],
        Ok(_) => return None,
        Err(_no_address) => last.parse().ok()?,
    };
    let [a, b, c, start] = octets;
    (start < last).then(|| format!("{a}.{b}.{c}.[{start}-{last}]"))
}

impl std::str::FromStr for Cidr {
    type Err = String;

    /// Parses a prefix as manifests write it.
    fn from_str(text: &str) -> Result<Self, String> {
        cidr(text).map_err(Fault::on_one_line)
    }
}

/// Parses an address.
pub(crate) fn address(text: &str) -> Result<Addr, Fault> {
    if text.contains('/') {
        let message = format!("`{}` is a prefix, expected an address", text::shown(text));
        return Err(Fault::new(rules::ADDRESS, message).help(
            "list each address of a node; a prefix belongs to `networks`, which `allow` names",
        ));
    }
    Ok(ip(text)?.into())
}

/// Parses an address that a host can have on a network.
pub(crate) fn host_address(text: &str) -> Result<Addr, Fault> {
    let address = address(text)?;
    if address.is_martian() {
        let shown = text::shown(text);
        let message = format!("`{shown}` cannot be the address of a host on a network");
        return Err(Fault::new(rules::MARTIAN, message)
            .help("loopback, multicast, broadcast and unspecified addresses are refused"));
    }
    Ok(address)
}

/// Parses a prefix. An address without a length is a prefix of one address.
pub(crate) fn cidr(text: &str) -> Result<Cidr, Fault> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    // The suggested replacement covers the address only, so it is no fix for the whole text.
    let only = |fault: Fault| Fault { instead: fault.instead.filter(|_| len.is_none()), ..fault };
    let address = ip(address).map_err(only)?;
    let (family, max) = match address {
        IpAddr::V4(_) => ("IPv4", 32),
        IpAddr::V6(_) => ("IPv6", 128),
    };
    let len = match len {
        None => max,
        Some(len) => match digits(len) {
            Some(n) if n <= u64::from(max) => u8::try_from(n).unwrap_or(max),
            _ => {
                let message = format!(
                    "`/{}` is not the length of an {family} prefix, expected 0 to {max}",
                    text::shown(len)
                );
                return Err(Fault::new(rules::ADDRESS, message));
            }
        },
    };
    if len == 0 {
        let message = format!("`{}` covers every {family} address", text::shown(text));
        return Err(Fault::new(rules::EVERYTHING, message)
            .help("write `any: true` in `allow` to admit every source"));
    }
    let host_bits = |network: String| {
        let message = format!("`{}` has bits beyond its length", text::shown(text));
        Fault::new(rules::HOST_BITS, message).help(format!(
            "write {network}/{len} for the network, or {address}/{max} for the one host"
        ))
    };
    match address {
        IpAddr::V4(v4) => {
            let network = Ipv4Network::new(v4, len).map_or(v4, |n| n.network());
            if network != v4 {
                return Err(host_bits(network.to_string()));
            }
            Ok(Cidr::V4(Prefix { addr: v4.octets(), len }))
        }
        IpAddr::V6(v6) => {
            let network = Ipv6Network::new(v6, len).map_or(v6, |n| n.network());
            if network != v6 {
                return Err(host_bits(network.to_string()));
            }
            Ok(Cidr::V6(Prefix { addr: v6.octets(), len }))
        }
    }
}
