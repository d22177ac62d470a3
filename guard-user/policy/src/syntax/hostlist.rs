//! Host lists: `worker-[000-511]`, `10.0.[4-5].[0-255]`, `gpu-[1-3,7]`.
//!
//! With several brackets, all combinations are generated; the last bracket varies fastest. Zero padding
//! is kept. The numbers in IPv6 addresses are hexadecimal.

use super::{rules, scalars::MAX_NAME, text, walk::Fault};

/// Maximum number of entries of a host list, and of names and of addresses in a manifest.
pub(crate) const MAX_EXPANSION: usize = 1_000_000;

/// A host list that is not yet expanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostList {
    parts: Vec<Part>,
    radix: Radix,
    count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Ranges(Vec<Range>),
}

/// The numbers from `first` to `last`, padded with zeros to at least `width` digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u64,
    last: u64,
    width: usize,
}

impl Range {
    fn count(self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }
}

/// Base of the numbers in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Radix {
    Decimal,
    Hexadecimal,
}

impl HostList {
    /// Parses a host list. A text without brackets is a list with one entry.
    pub(crate) fn parse(text: &str, radix: Radix) -> Result<Self, Fault> {
        let fault = |why: String| {
            let shown = text::shown(text);
            Fault::new(rules::HOST_LIST, format!("`{shown}` is not a host list: {why}"))
                .help("write it like `worker-[0-7]`, `worker-[000-511]` or `worker-[1-3,7]`")
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['[', ']']) {
            let (before, bracket) = rest.split_at(open);
            let Some(inside) = bracket.strip_prefix('[') else {
                return Err(fault("a `]` without `[`".into()));
            };
            let Some((ranges, after)) = inside.split_once(']') else {
                return Err(fault("a `[` without `]`".into()));
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let ranges: Result<Vec<Range>, String> =
                ranges.split(',').map(|range| one_range(range, radix)).collect();
            parts.push(Part::Ranges(ranges.map_err(fault)?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let count = parts.iter().fold(1_u64, |count, part| match part {
            Part::Text(_) => count,
            Part::Ranges(ranges) => {
                let sum = ranges.iter().fold(0, |n: u64, r| n.saturating_add(r.count()));
                count.saturating_mul(sum)
            }
        });
        let fits = usize::try_from(count).ok().filter(|n| *n <= MAX_EXPANSION);
        let Some(count) = fits else {
            let shown = text::shown(text);
            let message = format!(
                "`{shown}` expands to {count} entries, at most {MAX_EXPANSION} are possible"
            );
            return Err(Fault::new(rules::EXPANSION, message));
        };
        Ok(Self { parts, radix, count })
    }

    /// Returns the number of entries, at most [`MAX_EXPANSION`].
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the length of the longest entry in bytes.
    pub(crate) fn longest(&self) -> usize {
        let digits = |n: u64| match self.radix {
            Radix::Decimal => n.checked_ilog10(),
            Radix::Hexadecimal => n.checked_ilog(16),
        };
        let of_part = |part: &Part| match part {
            Part::Text(text) => text.len(),
            Part::Ranges(ranges) => {
                let longest = |range: &Range| {
                    let digits = digits(range.last).unwrap_or(0) as usize + 1;
                    digits.max(range.width)
                };
                ranges.iter().map(longest).max().unwrap_or(0)
            }
        };
        self.parts.iter().map(of_part).sum()
    }

    /// Returns an entry by its index, which must be below [`HostList::count`].
    pub(crate) fn entry(&self, number: usize) -> String {
        let mut number = number as u64;
        let mut pieces = Vec::with_capacity(self.parts.len());
        for part in self.parts.iter().rev() {
            match part {
                Part::Text(text) => pieces.push(text.clone()),
                Part::Ranges(ranges) => {
                    let sum = ranges.iter().fold(0, |n: u64, r| n.saturating_add(r.count()));
                    let mut index = number.checked_rem(sum).unwrap_or(0);
                    number = number.checked_div(sum).unwrap_or(0);
                    for range in ranges {
                        if index < range.count() {
                            let n = range.first.saturating_add(index);
                            let width = range.width;
                            pieces.push(match self.radix {
                                Radix::Decimal => format!("{n:0width$}"),
                                Radix::Hexadecimal => format!("{n:0width$x}"),
                            });
                            break;
                        }
                        index -= range.count();
                    }
                }
            }
        }
        pieces.reverse();
        pieces.concat()
    }
}

fn one_range(text: &str, radix: Radix) -> Result<Range, String> {
    let shown = text::shown(text);
    let number = |text: &str| {
        let (base, valid) = match radix {
            Radix::Decimal => (10, text.bytes().all(|b| b.is_ascii_digit())),
            Radix::Hexadecimal => (16, text.bytes().all(|b| b.is_ascii_hexdigit())),
        };
        let parsed = u64::from_str_radix(text, base).ok();
        parsed.filter(|_| valid).ok_or_else(|| format!("`[{shown}]` lacks a number"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let padded = |text: &str| text.len() > 1 && text.starts_with('0');
    if (padded(first) || padded(last)) && first.len() != last.len() {
        return Err(format!("the ends of `[{shown}]` are padded to different widths"));
    }
    let width = if padded(first) { first.len() } else { 1 };
    if width > MAX_NAME {
        let message = format!("`[{shown}]` is padded to {width} digits, at most {MAX_NAME} fit");
        return Err(message);
    }
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("the range `[{shown}]` runs backwards"));
    }
    Ok(Range { first, last, width })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expand(text: &str, radix: Radix) -> Vec<String> {
        let list = HostList::parse(text, radix).unwrap();
        (0..list.count()).map(|n| list.entry(n)).collect()
    }

    #[test]
    fn lists_expand_in_order() {
        use Radix::{Decimal, Hexadecimal};
        assert_eq!(expand("sched", Decimal), ["sched"]);
        assert_eq!(expand("server-[0-1]", Decimal), ["server-0", "server-1"]);
        assert_eq!(expand("w[008-011]x", Decimal), ["w008x", "w009x", "w010x", "w011x"]);
        assert_eq!(expand("w[8-11]", Decimal), ["w8", "w9", "w10", "w11"]);
        assert_eq!(expand("g[1-2,7]", Decimal), ["g1", "g2", "g7"]);
        assert_eq!(
            expand("10.0.[4-5].[0-1]", Decimal),
            ["10.0.4.0", "10.0.4.1", "10.0.5.0", "10.0.5.1"]
        );
        assert_eq!(expand("fd::[9-b]", Hexadecimal), ["fd::9", "fd::a", "fd::b"]);
    }

    #[test]
    fn invalid_lists_are_refused() {
        for text in [
            "w[", "w]", "w[]", "w[1", "w[1-]", "w[-1]", "w[3-1]", "w[1,]", "w[a-b]", "w[00-5]",
            "w[+1-2]", "w[[1]]", "w[1-2-3]",
        ] {
            assert!(HostList::parse(text, Radix::Decimal).is_err(), "{text}");
        }
        let big = HostList::parse("w[0-999999][0-9]", Radix::Decimal).unwrap_err();
        assert_eq!(big.code, rules::EXPANSION);
        assert!(big.message.contains("10000000"), "{}", big.message);
        let bigger = "[0-18446744073709551615]".repeat(3);
        assert!(HostList::parse(&bigger, Radix::Decimal).is_err());
    }

    proptest! {
        #[test]
        fn a_range_expands_to_its_numbers(first in 0_u64..500, more in 0_u64..500, padded: bool) {
            let last = first + more;
            let width = if padded { 4 } else { 1 };
            let text = format!("n[{first:0width$}-{last:0width$}].[0-2]");
            let naive: Vec<String> = (first..=last)
                .flat_map(|n| (0..3).map(move |m| format!("n{n:0width$}.{m}")))
                .collect();
            prop_assert_eq!(expand(&text, Radix::Decimal), naive);
        }

        #[test]
        fn never_panics(text in "[a-f0-9,\\-\\[\\]]{0,24}") {
            for radix in [Radix::Decimal, Radix::Hexadecimal] {
                if let Ok(list) = HostList::parse(&text, radix) {
                    let _ = list.entry(list.count() - 1);
                }
            }
        }
    }
}
