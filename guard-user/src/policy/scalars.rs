//! Single values of the documents: names, ports, prefixes, rates. Each is judged as it is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use guard_common::{Addr, flow::Transport};
use ipnetwork::{Ipv4Network, Ipv6Network};

use super::{
    compiled::Prefix,
    diagnostic::code,
    text,
    walk::{Fault, nearest, one_of},
};

/// Bytes of a name; the kernel object has room for `policy/service` in as many.
pub const MAX_NAME: usize = 127;
/// Characters of an interface name (`IFNAMSIZ`, include/uapi/linux/if.h, without the zero).
const MAX_INTERFACE: usize = 15;

/// A prefix of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cidr {
    /// An IPv4 prefix.
    V4(Prefix<[u8; 4]>),
    /// An IPv6 prefix.
    V6(Prefix<[u8; 16]>),
}

/// A range of ports of a transport, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The transport, by its number.
    pub transport: Transport,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Number of ports less one.
    pub fn width(&self) -> u16 {
        self.last.saturating_sub(self.first)
    }

    /// The ports that are in both.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        let first = self.first.max(other.first);
        let last = self.last.min(other.last);
        (self.transport == other.transport && first <= last).then_some(Self {
            first,
            last,
            ..*self
        })
    }
}

impl std::fmt::Display for PortRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = self.transport.name();
        match (self.first, self.last) {
            (0, u16::MAX) => write!(f, "{transport}/any"),
            (first, last) if first == last => write!(f, "{transport}/{first}"),
            (first, last) => write!(f, "{transport}/{first}-{last}"),
        }
    }
}

/// A whole number as everybody writes it: digits only, no leading zero.
fn digits(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if !plain || (text.len() > 1 && text.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

/// Whether YAML readers may take a plain scalar for a boolean or a number.
fn is_ambiguous(text: &str) -> bool {
    const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];
    let number = text.trim_start_matches(['+', '-']);
    let radix = |prefix: &str| {
        let rest = number.strip_prefix(prefix);
        rest.is_some_and(|r| !r.is_empty() && r.bytes().all(|b| b.is_ascii_hexdigit() || b == b'_'))
    };
    let decimal = number.bytes().any(|b| b.is_ascii_digit())
        && number.parse::<f64>().is_ok_and(f64::is_finite);
    let grouped = number.starts_with(|c: char| c.is_ascii_digit())
        && number.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        || decimal
        || grouped
        || radix("0x")
        || radix("0o")
        || radix("0b")
}

/// A piece of text that no reader takes for something else.
pub(super) fn string(text: &str, plain: bool) -> Result<String, Fault> {
    if plain && is_ambiguous(text) {
        return Err(Fault::new(
            code::AMBIGUOUS,
            format!("`{text}` without quotes is a number or a boolean to some readers of YAML"),
        )
        .help(format!("write \"{text}\"")));
    }
    Ok(text.to_owned())
}

/// A name: letters, digits, `.`, `_` and `-`, the first a letter or digit.
pub(super) fn name(text: &str, plain: bool) -> Result<String, Fault> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let shown = text::shown(text);
    let rule = "a name is made of letters, digits, `.`, `_` and `-`, and starts with a letter or \
                digit";
    if text.len() > MAX_NAME {
        let message = format!("the name has {} bytes, at most {MAX_NAME} fit", text.len());
        return Err(Fault::new(code::NAME, message));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || !text.bytes().all(allowed) {
        return Err(Fault::new(code::NAME, format!("`{shown}` is not a name")).help(rule));
    }
    string(text, plain)
}

/// A glob pattern of interface names.
pub(super) fn interface(text: &str, plain: bool) -> Result<String, Fault> {
    let fault = |why: &str| {
        let shown = text::shown(text);
        Fault::new(
            code::INTERFACE,
            format!("`{shown}` is not an interface pattern: {why}"),
        )
        .help("write a name such as `eth0` or a pattern such as `rail*`")
    };
    if text.is_empty() {
        return Err(fault("it is empty"));
    }
    if text.contains(|c: char| c.is_whitespace() || c == '/' || !c.is_ascii_graphic()) {
        return Err(fault("an interface name has no blanks and no `/`"));
    }
    if let Err(error) = glob::Pattern::new(text) {
        return Err(fault(error.msg));
    }
    if !text.contains(['*', '?', '[']) && text.len() > MAX_INTERFACE {
        return Err(fault("an interface name has at most 15 characters"));
    }
    string(text, plain)
}

/// A path, or a glob pattern of paths.
pub(super) fn path(text: &str, plain: bool) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::new(code::PATH, "the path is empty"));
    }
    string(text, plain)
}

/// Only `true`.
pub(super) fn only_true(text: &str, plain: bool) -> Result<(), Fault> {
    if plain && text == "true" {
        return Ok(());
    }
    let shown = text::shown(text);
    let quotes = if plain { "" } else { "\"" };
    Err(Fault::new(
        code::AMBIGUOUS,
        format!("{quotes}{shown}{quotes} is not `true`"),
    )
    .help("write `any: true` to admit everybody, or leave `any` out"))
}

/// One of some words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, Fault> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let message = format!(
        "`{}` is not possible here, expected {}",
        text::shown(text),
        one_of(&known)
    );
    let fault = Fault::new(code::CHOICE, message);
    Err(match nearest(text, known) {
        Some(near) => fault.help(format!("did you mean `{near}`?")),
        None => fault,
    })
}

/// `tcp/N`, `tcp/N-M`, `tcp/any`, and the same with `udp` and `sctp`.
pub(super) fn ports(text: &str) -> Result<PortRange, Fault> {
    let shown = text::shown(text);
    let Some((transport, ports)) = text.split_once('/') else {
        let fault = Fault::new(code::PORT, format!("`{shown}` names no transport"));
        return Err(match digits(text) {
            Some(_) => fault.help(format!("write `tcp/{shown}` or `udp/{shown}`")),
            None => fault.help("write `tcp/9091`, `udp/5000-5099` or `tcp/any`"),
        });
    };
    let names = Transport::ALL.map(|transport| (transport.name(), transport));
    let transport = choice(transport, &names).map_err(|fault| Fault {
        code: code::PORT,
        ..fault
    })?;
    if ports == "any" {
        return Ok(PortRange {
            transport,
            first: 0,
            last: u16::MAX,
        });
    }
    let number = |text: &str| match digits(text) {
        Some(n @ 1..=65535) => Ok(u16::try_from(n).unwrap_or(u16::MAX)),
        Some(n) => Err(Fault::new(
            code::PORT,
            format!("port {n} does not exist, expected 1 to 65535"),
        )),
        None => {
            let shown = text::shown(text);
            Err(Fault::new(
                code::PORT,
                format!("`{shown}` is not a port, expected a whole number from 1 to 65535"),
            )
            .help("write digits only, without sign, leading zero, `_` or `0x`"))
        }
    };
    let (first, last) = match ports.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(ports)?, number(ports)?),
    };
    if first > last {
        let help = format!("write `{}/{last}-{first}`", transport.name());
        let message = format!("the range {first}-{last} runs backwards");
        return Err(Fault::new(code::PORT, message).help(help));
    }
    Ok(PortRange {
        transport,
        first,
        last,
    })
}

/// An address as everybody writes it.
fn ip(text: &str) -> Result<IpAddr, Fault> {
    let shown = text::shown(text);
    if text.contains('%') {
        let message = format!("`{shown}` has a zone; a zone means something on one host only");
        return Err(Fault::new(code::ADDRESS, message).help("write the address without `%...`"));
    }
    if text.contains(':') {
        let found: Ipv6Addr = text.parse().map_err(|_invalid| {
            Fault::new(code::ADDRESS, format!("`{shown}` is not an IPv6 address"))
        })?;
        if let Some(mapped) = found.to_ipv4_mapped() {
            let message = format!("`{shown}` is an IPv4 address in IPv6 clothes");
            return Err(Fault::new(code::ADDRESS, message).help(format!("write {mapped}")));
        }
        return Ok(found.into());
    }
    text.parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .map_err(|_invalid| {
            let fault = |message: String| Fault::new(code::ADDRESS, message);
            let octets: Vec<&str> = text.split('.').collect();
            let numeric = octets.iter().all(|o| o.bytes().all(|b| b.is_ascii_digit()));
            if !numeric {
                return fault(format!("`{shown}` is not an address")).help(
                    "names are not resolved: whoever answers DNS would decide who is let in",
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

/// An address.
pub(super) fn address(text: &str) -> Result<Addr, Fault> {
    if text.contains('/') {
        let message = format!("`{}` is a prefix, expected an address", text::shown(text));
        return Err(Fault::new(code::ADDRESS, message));
    }
    Ok(match ip(text)? {
        IpAddr::V4(v4) => Addr::V4(v4.octets()),
        IpAddr::V6(v6) => Addr::V6(v6.octets()),
    })
}

/// A prefix; a bare address is a prefix of one.
pub(super) fn cidr(text: &str) -> Result<Cidr, Fault> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let address = ip(address)?;
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
                return Err(Fault::new(code::ADDRESS, message));
            }
        },
    };
    if len == 0 {
        let message = format!("`{}` is every {family} address", text::shown(text));
        return Err(Fault::new(code::EVERYTHING, message)
            .help("write `any: true` in `allow` to admit everybody"));
    }
    let host_bits = |network: String| {
        let message = format!("`{}` has bits beyond its length", text::shown(text));
        Fault::new(code::HOST_BITS, message).help(format!(
            "write {network}/{len} for the network, or {address}/{max} for the one host"
        ))
    };
    match address {
        IpAddr::V4(v4) => {
            let network = Ipv4Network::new(v4, len).map_or(v4, |n| n.network());
            if network != v4 {
                return Err(host_bits(network.to_string()));
            }
            Ok(Cidr::V4(Prefix {
                addr: v4.octets(),
                len,
            }))
        }
        IpAddr::V6(v6) => {
            let network = Ipv6Network::new(v6, len).map_or(v6, |n| n.network());
            if network != v6 {
                return Err(host_bits(network.to_string()));
            }
            Ok(Cidr::V6(Prefix {
                addr: v6.octets(),
                len,
            }))
        }
    }
}

/// What an amount counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// Connections or packets: `k`, `M`, `G`.
    Things,
    /// Bytes: `B`, `kB`, `KiB` and so on.
    Bytes,
}

impl Counted {
    fn units(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Things => &[
                ("", 1),
                ("k", 1_000),
                ("M", 1_000_000),
                ("G", 1_000_000_000),
            ],
            Self::Bytes => &[
                ("B", 1),
                ("kB", 1_000),
                ("MB", 1_000_000),
                ("GB", 1_000_000_000),
                ("KiB", 1 << 10),
                ("MiB", 1 << 20),
                ("GiB", 1 << 30),
            ],
        }
    }

    fn examples(self) -> &'static str {
        match self {
            Self::Things => "1000, 400k or 2M",
            Self::Bytes => "64MB, 500kB or 64MiB",
        }
    }

    /// Highest rate per second.
    pub(super) fn max_rate(self) -> u64 {
        match self {
            Self::Things => 1_000_000_000,
            Self::Bytes => 1_000_000_000_000,
        }
    }
}

/// A number with a unit.
pub(super) fn amount(text: &str, plain: bool, counted: Counted) -> Result<u64, Fault> {
    let shown = text::shown(text);
    let examples = counted.examples();
    if !plain && digits(text).is_some() {
        let message = format!("\"{shown}\" is a text, expected a number");
        return Err(
            Fault::new(code::AMBIGUOUS, message).help(format!("write {shown}, without quotes"))
        );
    }
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let Some(number) = digits(number) else {
        let odd = is_ambiguous(text) || text.starts_with(|c: char| c.is_ascii_digit() || c == '+');
        let code = if odd { code::AMBIGUOUS } else { code::AMOUNT };
        let message = format!("`{shown}` is not a whole number as everybody writes it");
        return Err(
            Fault::new(code, message).help(format!("write digits only, then the unit: {examples}"))
        );
    };
    let Some((_, factor)) = counted.units().iter().find(|(name, _)| *name == unit) else {
        let known = counted.units().iter().map(|(name, _)| *name);
        let names: Vec<&str> = known.filter(|name| !name.is_empty()).collect();
        let message = if unit.is_empty() {
            format!("`{shown}` has no unit, expected {}", one_of(&names))
        } else {
            let unit = text::shown(unit);
            format!("`{unit}` is not a unit here, expected {}", one_of(&names))
        };
        let code = if is_ambiguous(text) && !unit.is_empty() {
            code::AMBIGUOUS
        } else {
            code::AMOUNT
        };
        return Err(Fault::new(code, message).help(format!("write it like {examples}")));
    };
    number.checked_mul(*factor).ok_or_else(|| {
        Fault::new(
            code::AMOUNT,
            format!("`{shown}` is too much: it does not fit 64 bits"),
        )
    })
}

/// An amount per second.
pub(super) fn rate(text: &str, counted: Counted) -> Result<u64, Fault> {
    let shown = text::shown(text);
    let Some(number) = text.strip_suffix("/s") else {
        return Err(
            Fault::new(code::AMOUNT, format!("`{shown}` is not a rate")).help(format!(
                "write an amount per second, such as {}/s",
                match counted {
                    Counted::Things => "200",
                    Counted::Bytes => "500MB",
                }
            )),
        );
    };
    let rate = amount(number, true, counted)?;
    let max = counted.max_rate();
    if rate == 0 || rate > max {
        let message = format!("`{shown}` is out of range, expected 1 to {max} per second");
        return Err(Fault::new(code::AMOUNT, message));
    }
    Ok(rate)
}
