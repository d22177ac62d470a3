//! Ports and ranges of ports.

use guard_common::port_table::Transport;

use super::lexical::{choice, digits};
use crate::syntax::{rules, text, walk::Fault};

/// The UDP ports that ranges leave alone, with the protocol: DHCP (RFC 2131), NTP (RFC 5905), and
/// DHCP for IPv6 (RFC 8415). A node gets its addresses and its time from hosts that no manifest lists,
/// and their answers go to these ports, so a range such as `udp/1-32767` would cut it off.
const LEFT_ALONE: [(u16, &str); 5] =
    [(67, "DHCP"), (68, "DHCP"), (123, "NTP"), (546, "DHCPv6"), (547, "DHCPv6")];

/// A range of ports of a transport, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The transport of the ports.
    pub transport: Transport,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// Returns the number of ports minus one.
    pub fn width(&self) -> u16 {
        self.last.saturating_sub(self.first)
    }

    /// Returns the ports within the range that it does not guard although it contains them, each with
    /// the name of its protocol: UDP ports of DHCP and NTP. A range of one port guards it, whether it
    /// is written `udp/67` or `udp/67-67`.
    pub fn left_alone(self) -> impl Iterator<Item = (u16, &'static str)> {
        let is_range = self.transport == Transport::Udp && self.width() > 0;
        let within = move |port: u16| is_range && (self.first..=self.last).contains(&port);
        LEFT_ALONE.into_iter().filter(move |(port, _)| within(*port))
    }

    /// Returns the ports that both ranges contain; none if there are none.
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

impl std::str::FromStr for PortRange {
    type Err = String;

    /// Parses a range as policies write it.
    fn from_str(text: &str) -> Result<Self, String> {
        ports(text).map_err(Fault::on_one_line)
    }
}

/// Returns the range in our notation if the text has it in that of other tools, `tcp:9091` or
/// `9091/tcp`, for a hint.
fn otherwise(text: &str, separator: char) -> Option<String> {
    let (left, right) = text.split_once(separator)?;
    let is_range = |text: &str| {
        text == "any" || text.split('-').all(|number| matches!(digits(number), Some(1..=65535)))
    };
    [(left, right), (right, left)].into_iter().find_map(|(transport, range)| {
        let transport = transport.to_ascii_lowercase();
        let is_known = Transport::ALL.iter().any(|known| known.name() == transport);
        (is_known && is_range(range)).then(|| format!("{transport}/{range}"))
    })
}

/// Parses `tcp/N`, `tcp/N-M` or `tcp/any`, and the same with `udp` and `sctp`.
pub(crate) fn ports(text: &str) -> Result<PortRange, Fault> {
    let shown = text::shown(text);
    let Some((transport, ports)) = text.split_once('/') else {
        let fault = Fault::new(rules::PORT, format!("`{shown}` lacks a transport"));
        return Err(match (digits(text), otherwise(text, ':')) {
            (Some(_), _) => fault.help(format!("write `tcp/{shown}` or `udp/{shown}`")),
            (None, Some(range)) => fault.help(format!("write `{range}`")),
            (None, None) => fault.help("write `tcp/9091`, `udp/5000-5099` or `tcp/any`"),
        });
    };
    let names = Transport::ALL.map(|transport| (transport.name(), transport));
    let transport = choice(transport, &names).map_err(|fault| {
        let fault = Fault { code: rules::PORT, ..fault };
        match otherwise(text, '/') {
            Some(range) => fault.help(format!("write `{range}`")),
            None => fault,
        }
    })?;
    if ports == "any" {
        return Ok(PortRange { transport, first: 0, last: u16::MAX });
    }
    let number = |text: &str| match digits(text) {
        Some(n @ 1..=65535) => Ok(u16::try_from(n).unwrap_or(u16::MAX)),
        Some(n) => {
            Err(Fault::new(rules::PORT, format!("port {n} does not exist, expected 1 to 65535")))
        }
        None => {
            let shown = text::shown(text);
            Err(Fault::new(
                rules::PORT,
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
        return Err(Fault::new(rules::PORT, message).help(help));
    }
    Ok(PortRange { transport, first, last })
}
