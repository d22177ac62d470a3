//! Whether this node forwards packets: the forwarding settings of its interfaces, and routing rules by
//! firewall mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::message::{Attributes, Query, invalid};

// From include/uapi/linux/rtnetlink.h, netconf.h and fib_rules.h.
const RTM_NEWNETCONF: u16 = 80;
const RTM_DELNETCONF: u16 = 81;
const RTM_GETNETCONF: u16 = 82;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_IFINDEX_ALL: i32 = -1;
const NETCONFA_IFINDEX_DEFAULT: i32 = -2;
const FRA_FWMARK: u16 = 10;
const FRA_FWMASK: u16 = 16;
/// Size of `struct netconfmsg`, padded.
const NETCONFMSG: usize = 4;
/// Size of `struct fib_rule_hdr`.
const FIB_RULE_HDR: usize = 12;
/// Directory of the IPv6 settings of the interfaces.
const IPV6_SETTINGS: &str = "/proc/sys/net/ipv6/conf";
/// Setting by which an IPv6 interface forwards on its own (since Linux 6.17).
const FORCE_FORWARDING: &str = "force_forwarding";

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both versions.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn number(self) -> u8 {
        let number = match self {
            Self::V4 => libc::AF_INET,
            Self::V6 => libc::AF_INET6,
        };
        u8::try_from(number).unwrap_or_default()
    }

    fn of(number: u8) -> Option<Self> {
        Self::BOTH.into_iter().find(|family| family.number() == number)
    }
}

/// The forwarding settings of a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Setting of each interface, by version and index, and of `all`.
    interfaces: BTreeMap<(Family, i32), bool>,
    /// Names of the IPv6 interfaces that forward on their own, and `default`.
    forced: BTreeSet<String>,
}

/// The effect of a notification on the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The notification is not about forwarding.
    None,
    /// The settings contain the change.
    Applied,
    /// The setting of an interface to forward on its own may have changed, which
    /// [`Forwarding::read_forced`] reads.
    Forced,
}

impl Forwarding {
    /// Reads the settings of the network namespace of this thread.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn read() -> io::Result<Self> {
        let mut forwarding = Self::default();
        for family in Family::BOTH {
            let payload = [family.number(), 0, 0, 0];
            let query = Query {
                protocol: NETLINK_ROUTE,
                kind: RTM_GETNETCONF,
                payload: &payload,
                is_filtered: false,
            };
            let listed = query.list(|kind, payload| {
                forwarding.apply(kind, payload)?;
                Ok(None::<()>)
            });
            match listed {
                // A kernel without IPv6.
                Err(error) if is_missing(&error) && family == Family::V6 => {}
                listed => drop(listed?),
            }
        }
        forwarding.read_forced();
        Ok(forwarding)
    }

    /// Reads which IPv6 interfaces forward on their own. The kernel reports a change of this setting
    /// without its value.
    pub fn read_forced(&mut self) {
        self.forced.clear();
        // Before Linux 6.17 no interface has the setting.
        let is_on = |path: &Path| {
            fs::read_to_string(path.join(FORCE_FORWARDING)).is_ok_and(|text| text.trim() != "0")
        };
        let settings = Path::new(IPV6_SETTINGS);
        if !settings.join("default").join(FORCE_FORWARDING).exists() {
            return;
        }
        for entry in fs::read_dir(settings).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Writing to `all` sets each interface; the kernel does not read the setting itself.
            if name != "all" && is_on(&entry.path()) {
                self.forced.insert(name);
            }
        }
    }

    /// Applies a message about settings.
    ///
    /// # Errors
    /// The message is malformed.
    pub fn apply(&mut self, kind: u16, payload: &[u8]) -> io::Result<Change> {
        if !matches!(kind, RTM_NEWNETCONF | RTM_DELNETCONF) {
            return Ok(Change::None);
        }
        let family = payload.first().ok_or_else(|| invalid("a message is too short"))?;
        let Some(family) = Family::of(*family) else { return Ok(Change::None) };
        let attributes = Attributes::after(NETCONFMSG, payload)?;
        let number = |kind| attributes.number(kind).map(i32::from_ne_bytes);
        let index = number(NETCONFA_IFINDEX).ok_or_else(|| invalid("settings of no interface"))?;
        // A message about another setting has its value; one about this setting has none.
        let is_forced =
            family == Family::V6 && kind == RTM_NEWNETCONF && attributes.all().count() == 1;
        if index == NETCONFA_IFINDEX_DEFAULT {
            return Ok(if is_forced { Change::Forced } else { Change::None });
        }
        let key = (family, index);
        if kind == RTM_DELNETCONF {
            self.interfaces.remove(&key);
            // The interface may have been one that forwards on its own.
            let may_force = family == Family::V6 && !self.forced.is_empty();
            return Ok(if may_force { Change::Forced } else { Change::Applied });
        }
        let Some(setting) = number(NETCONFA_FORWARDING) else {
            return Ok(if is_forced { Change::Forced } else { Change::None });
        };
        let is_new = self.interfaces.insert(key, setting != 0).is_none();
        let inherits = is_new && family == Family::V6 && self.forced.contains("default");
        Ok(if inherits { Change::Forced } else { Change::Applied })
    }

    /// Reports whether the node forwards packets of this version on some interface.
    ///
    /// IPv4: an interface forwards. IPv6: `all` forwards, or an interface forwards on its own; the
    /// setting of an interface alone does not make it forward (`ip6_forward`, `net/ipv6/ip6_output.c`).
    pub fn is_on(&self, family: Family) -> bool {
        let all = self.interfaces.get(&(family, NETCONFA_IFINDEX_ALL)) == Some(&true);
        match family {
            Family::V4 => all || self.of(family).any(|(_, is_on)| is_on),
            Family::V6 => all || self.forced.iter().any(|name| name != "default"),
        }
    }

    /// Returns the indices of the interfaces whose IPv6 setting differs from that of `all`. The kernel
    /// forwards by `all`, and the look-up of a program in the kernel by the interface.
    pub fn mixed_ipv6(&self) -> Vec<u32> {
        let all = self.interfaces.get(&(Family::V6, NETCONFA_IFINDEX_ALL)) == Some(&true);
        let differ = self.of(Family::V6).filter(|(_, is_on)| *is_on != all);
        differ.map(|(index, _)| index).collect()
    }

    /// Returns the settings of interfaces by index.
    fn of(&self, family: Family) -> impl Iterator<Item = (u32, bool)> {
        let of_family = self.interfaces.iter().filter(move |((of, _), _)| *of == family);
        of_family.filter_map(|((_, index), is_on)| Some((u32::try_from(*index).ok()?, *is_on)))
    }
}

/// Reports whether a notification is about a routing rule.
pub fn is_of_rule(kind: u16) -> bool {
    matches!(kind, RTM_NEWRULE | RTM_DELRULE)
}

/// Returns the version of a routing rule by firewall mark that a message adds.
pub fn added_rule_by_mark(kind: u16, payload: &[u8]) -> Option<Family> {
    let attributes = Attributes::after(FIB_RULE_HDR, payload).ok()?;
    let number = |kind| attributes.number(kind).map(u32::from_ne_bytes);
    // The kernel compares the bits of the mask; with an empty mask each packet matches.
    let mask = number(FRA_FWMASK).or_else(|| number(FRA_FWMARK)).unwrap_or_default();
    Family::of(*payload.first()?).filter(|_| kind == RTM_NEWRULE && mask != 0)
}

/// Returns the versions that have a routing rule by firewall mark.
///
/// # Errors
/// The kernel does not answer, or the rules changed at each attempt to list them.
pub fn rules_by_mark() -> io::Result<BTreeSet<Family>> {
    let mut found = BTreeSet::new();
    for family in Family::BOTH {
        let mut payload = [0; FIB_RULE_HDR];
        payload[0] = family.number();
        let query = Query {
            protocol: NETLINK_ROUTE,
            kind: RTM_GETRULE,
            payload: &payload,
            is_filtered: false,
        };
        let listed = match query.list(|kind, payload| Ok(added_rule_by_mark(kind, payload))) {
            // A kernel without routing rules, or without IPv6.
            Err(error) if is_missing(&error) => continue,
            listed => listed?,
        };
        if !listed.is_consistent {
            return Err(io::Error::other("the routing rules changed while the kernel listed them"));
        }
        found.extend(listed.items);
    }
    Ok(found)
}

/// Reports whether an error means that the kernel lacks a protocol.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use super::{super::message::attribute, *};

    fn setting(family: Family, index: i32, forwarding: Option<i32>) -> Vec<u8> {
        let mut payload = vec![family.number(), 0, 0, 0];
        payload.extend(attribute(NETCONFA_IFINDEX, &index.to_ne_bytes()));
        if let Some(forwarding) = forwarding {
            payload.extend(attribute(NETCONFA_FORWARDING, &forwarding.to_ne_bytes()));
        }
        payload
    }

    fn applied(forwarding: &mut Forwarding, family: Family, index: i32, is_on: bool) -> Change {
        let payload = setting(family, index, Some(is_on.into()));
        forwarding.apply(RTM_NEWNETCONF, &payload).expect("a message")
    }

    #[test]
    fn ipv4_forwards_by_interface_and_ipv6_by_all() {
        let mut forwarding = Forwarding::default();
        assert_eq!(applied(&mut forwarding, Family::V4, 3, true), Change::Applied);
        assert!(forwarding.is_on(Family::V4));
        applied(&mut forwarding, Family::V6, 3, true);
        assert!(!forwarding.is_on(Family::V6));
        assert_eq!(forwarding.mixed_ipv6(), [3]);
        applied(&mut forwarding, Family::V6, NETCONFA_IFINDEX_ALL, true);
        assert!(forwarding.is_on(Family::V6));
        assert_eq!(forwarding.mixed_ipv6(), [0; 0]);
        applied(&mut forwarding, Family::V6, 4, false);
        assert_eq!(forwarding.mixed_ipv6(), [4]);
        let gone = setting(Family::V4, 3, None);
        assert_eq!(forwarding.apply(RTM_DELNETCONF, &gone).expect("a message"), Change::Applied);
        assert!(!forwarding.is_on(Family::V4));
    }

    #[test]
    fn the_setting_of_new_interfaces_forwards_nothing() {
        let mut forwarding = Forwarding::default();
        for family in Family::BOTH {
            applied(&mut forwarding, family, NETCONFA_IFINDEX_DEFAULT, true);
            assert!(!forwarding.is_on(family));
        }
    }

    /// As Linux 6.18 sends it when `force_forwarding` of an interface is set.
    #[test]
    fn a_message_without_a_value_is_about_forced_forwarding() {
        let mut forwarding = Forwarding::default();
        let message = setting(Family::V6, 1, None);
        assert_eq!(forwarding.apply(RTM_NEWNETCONF, &message).expect("a message"), Change::Forced);
        forwarding.forced.insert("default".to_owned());
        assert!(!forwarding.is_on(Family::V6));
        assert_eq!(applied(&mut forwarding, Family::V6, 9, false), Change::Forced, "inherited");
        forwarding.forced.insert("eth0".to_owned());
        assert!(forwarding.is_on(Family::V6));
        let gone = forwarding.apply(RTM_DELNETCONF, &message).expect("a message");
        assert_eq!(gone, Change::Forced, "which interface is gone is not known");
        assert!(forwarding.apply(RTM_NEWNETCONF, &message[..6]).is_err());
        assert!(forwarding.apply(RTM_NEWNETCONF, &[]).is_err());
    }

    #[test]
    fn a_rule_counts_if_its_mask_has_bits() {
        let rule = |attributes: &[(u16, u32)]| {
            let mut payload = vec![0; FIB_RULE_HDR];
            payload[0] = Family::V6.number();
            for (kind, value) in attributes {
                payload.extend(attribute(*kind, &value.to_ne_bytes()));
            }
            added_rule_by_mark(RTM_NEWRULE, &payload)
        };
        assert_eq!(rule(&[(FRA_FWMARK, 1), (FRA_FWMASK, u32::MAX)]), Some(Family::V6));
        assert_eq!(rule(&[(FRA_FWMASK, 0xff)]), Some(Family::V6), "mark 0 of a mask");
        assert_eq!(rule(&[(FRA_FWMARK, 1), (FRA_FWMASK, 0)]), None);
        assert_eq!(rule(&[]), None);
        assert_eq!(added_rule_by_mark(RTM_NEWRULE, &[0; 3]), None);
    }

    #[test]
    fn the_kernel_answers() {
        let forwarding = Forwarding::read().expect("the settings");
        assert!(forwarding.interfaces.contains_key(&(Family::V4, NETCONFA_IFINDEX_ALL)));
        rules_by_mark().expect("the rules");
    }
}
