//! Lists of sources to admit: hosts or prefixes of both families; and sources that are not listed.

use std::{collections::BTreeSet, fmt::Write as _};

use guard_test_support::bundle;
use guard_tests::{
    bench::object::{SOURCES, Sources},
    random::Random,
};
use guard_user::policy::Bundle;

/// The guarded port.
pub(crate) const PORT: u16 = 9091;
/// A port that is not guarded.
pub(crate) const FREE_PORT: u16 = 8080;
/// Name of the node whose policy is measured.
pub(crate) const NODE: &str = "node";

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Returns the name used in output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// Returns the number of bits in an address.
    fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// Returns a random global unicast address (IPv6: in `2000::/3`), which no filter treats as a
    /// martian.
    fn unicast(self, random: &mut Random) -> u128 {
        match self {
            Self::V4 => loop {
                let [first, rest @ ..] = u32_of(random).to_be_bytes();
                if !matches!(first, 0 | 10 | 127 | 224..) {
                    let [b, c, d] = rest;
                    return u32::from_be_bytes([first, b, c, d]).into();
                }
            },
            Self::V6 => {
                let addr = u128::from(random.word()) << 64 | u128::from(random.word());
                addr >> 3 | 1 << 125
            }
        }
    }

    /// Formats an address.
    fn text(self, addr: u128) -> String {
        match self {
            Self::V4 => v4(addr).to_string(),
            Self::V6 => std::net::Ipv6Addr::from_bits(addr).to_string(),
        }
    }
}

fn u32_of(random: &mut Random) -> u32 {
    u32::try_from(random.word() >> 32).unwrap_or(0)
}

/// Returns the IPv4 address in the lower half of a word.
pub(crate) fn v4(addr: u128) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(u32::try_from(addr).unwrap_or(0))
}

/// A prefix. Host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    addr: u128,
    len: u32,
}

impl Prefix {
    fn new(family: Family, addr: u128, len: u32) -> Self {
        let free = family.bits() - len;
        let addr = if free == 128 { 0 } else { addr >> free << free };
        Self { addr, len }
    }

    fn last(self, family: Family) -> u128 {
        let free = family.bits() - self.len;
        self.addr | u128::MAX.checked_shr(128 - free).unwrap_or(0)
    }
}

/// A list of sources.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Name in the output.
    pub(crate) name: &'static str,
    /// Number of sources of each family.
    pub(crate) count: usize,
    hosts: bool,
    prefixes: [Vec<Prefix>; 2],
}

/// Returns all lists to measure. A quick run leaves out the easiest one.
pub(crate) fn all(quick: bool) -> Vec<Listing> {
    let mut all = vec![
        Listing::hosts("1,000 hosts", 1_000),
        Listing::cluster("1,000 hosts of a cluster", 1_000),
        Listing::hosts("100,000 hosts", 100_000),
        Listing::prefixes("100,000 prefixes of 16 to 32 or 32 to 128 bits", 100_000),
    ];
    if !quick {
        all.insert(0, Listing::hosts("1 host", 1));
    }
    all
}

impl Listing {
    /// Returns hosts spread over unicast space, the case in which a compiled table shares the fewest
    /// nodes.
    fn hosts(name: &'static str, count: usize) -> Self {
        let any = |family: Family, random: &mut Random| (family.unicast(random), family.bits());
        Self { hosts: true, ..Self::new(name, count, any) }
    }

    fn prefixes(name: &'static str, count: usize) -> Self {
        let any = |family: Family, random: &mut Random| {
            let (least, most) = if family == Family::V4 { (16, 32) } else { (32, 128) };
            let more = random.below(most - least + 1);
            (family.unicast(random), u32::try_from(least + more).unwrap_or(32))
        };
        Self::new(name, count, any)
    }

    fn new(
        name: &'static str,
        count: usize,
        mut next: impl FnMut(Family, &mut Random) -> (u128, u32),
    ) -> Self {
        let mut random = Random::new(1);
        let prefixes = Family::BOTH.map(|family| {
            let mut prefixes = BTreeSet::new();
            while prefixes.len() < count {
                let (addr, len) = next(family, &mut random);
                prefixes.insert(Prefix::new(family, addr, len));
            }
            prefixes.into_iter().collect()
        });
        Self { name, count, hosts: false, prefixes }
    }

    /// Returns hosts under two prefixes of 16 (IPv4) or 48 bits (IPv6), 32 hosts per subnet: the case in
    /// which a lookup skips the most bits.
    fn cluster(name: &'static str, count: u32) -> Self {
        let host = |family: Family, number: u32| {
            let (half, number) = (u128::from(number % 2), u128::from(number / 2));
            let (subnet, host) = (number / 32, number % 32 + 1);
            let addr = match family {
                Family::V4 => 0x0a04_0000 | half << 16 | subnet << 8 | host,
                Family::V6 => 0xfd77_0000_0002 << 80 | half << 80 | subnet << 64 | host,
            };
            Prefix { addr, len: family.bits() }
        };
        let prefixes =
            Family::BOTH.map(|family| (0..count).map(|number| host(family, number)).collect());
        Self { name, count: count as usize, hosts: true, prefixes }
    }

    /// Reports whether the list consists of hosts only.
    pub(crate) fn hosts_only(&self) -> bool {
        self.hosts
    }

    fn of(&self, family: Family) -> &[Prefix] {
        &self.prefixes[family as usize]
    }

    /// Returns the first addresses of the listed prefixes of a family.
    pub(crate) fn addresses(&self, family: Family) -> impl Iterator<Item = u128> {
        self.of(family).iter().map(|prefix| prefix.addr)
    }

    /// Returns the first addresses of the listed prefixes, shuffled.
    pub(crate) fn listed(&self, family: Family) -> Sources {
        let mut addrs: Vec<u128> = self.addresses(family).collect();
        let mut random = Random::new(2);
        // Fisher-Yates shuffle.
        for last in (1..addrs.len()).rev() {
            addrs.swap(last, random.below(last + 1));
        }
        sources(family, &addrs)
    }

    /// Returns addresses from all of unicast space that are not listed.
    pub(crate) fn unlisted(&self, family: Family) -> Sources {
        let mut random = Random::new(3);
        let ranges = self.ranges(family);
        let mut addrs = Vec::with_capacity(SOURCES);
        while addrs.len() < SOURCES {
            let addr = family.unicast(&mut random);
            let after = ranges.partition_point(|(first, _)| *first <= addr);
            let before = after.checked_sub(1).and_then(|at| ranges.get(at));
            if before.is_none_or(|(_, last)| *last < addr) {
                addrs.push(addr);
            }
        }
        sources(family, &addrs)
    }

    /// Returns the first and last addresses of the listed prefixes, sorted and without overlap.
    fn ranges(&self, family: Family) -> Vec<(u128, u128)> {
        let mut merged: Vec<(u128, u128)> = Vec::new();
        for prefix in self.of(family) {
            let (first, last) = (prefix.addr, prefix.last(family));
            match merged.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        merged
    }

    /// Returns a manifest and a policy that admit only this list to [`PORT`].
    pub(crate) fn bundle(&self, limits: &str) -> Bundle {
        let allow = if self.hosts { "roles: [member]" } else { "networks: [listed]" };
        let mut manifest = bundle::cluster("bench").policies("policy.yaml").node(
            NODE,
            "10.77.0.10, fd77::10",
            "target",
        );
        manifest = manifest
            .network("listed", if self.hosts { "[192.0.2.0/24]" } else { "{ file: listed.txt }" });
        let mut list = String::new();
        let lines = Family::BOTH.map(|family| {
            self.of(family).iter().map(move |prefix| (family.text(prefix.addr), prefix.len))
        });
        let [ipv4, ipv6] = lines;
        for (number, ((addr4, len4), (addr6, len6))) in ipv4.zip(ipv6).enumerate() {
            if self.hosts {
                let addresses = format!("{addr4}, {addr6}");
                manifest = manifest.node(&format!("host-{number}"), &addresses, "member");
            } else {
                writeln!(list, "{addr4}/{len4}\n{addr6}/{len6}").expect("a string takes it");
            }
        }
        let service = bundle::service("guarded", "target", &format!("tcp/{PORT}"), allow);
        let policy = bundle::policy("bench", [service + limits]);
        let texts =
            [("cluster.yaml", manifest.to_string()), ("policy.yaml", policy), ("listed.txt", list)];
        Bundle::new("cluster.yaml", texts)
    }
}

/// Formats the first of some sources.
pub(crate) fn first(sources: &Sources) -> String {
    match sources {
        Sources::V4(all) => Family::V4.text(u32::from_be_bytes(all[0]).into()),
        Sources::V6(all) => Family::V6.text(u128::from_be_bytes(all[0])),
    }
}

fn sources(family: Family, addrs: &[u128]) -> Sources {
    match family {
        Family::V4 => Sources::V4(addrs.iter().map(|addr| v4(*addr).octets()).collect()),
        Family::V6 => Sources::V6(addrs.iter().map(|addr| addr.to_be_bytes()).collect()),
    }
}
