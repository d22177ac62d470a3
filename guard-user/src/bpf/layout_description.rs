//! The description of a layout: lines of `name = value`, as in `guard-common/layout.lock`.
//!
//! A guard writes the lines of its layout into a pinned map. A guard of another layout, older or
//! newer, uses them to find counters by their meaning. The names of the lines that this module reads
//! must not change.
//!
//! Decision: `docs/decisions/0021-layouts-describe-themselves.md`.

use std::{collections::BTreeMap, path::Path};

use crate::{sys::RawMap, system_error::SystemError};
use guard_common::{
    layout::{self, ABOUT_BYTES},
    names,
    verdict::{Action, Reason},
};

/// Maximum plausible size of a struct, in bytes.
const MAX_VALUE: usize = 1 << 16;
/// The description of this layout.
const THIS_LAYOUT: &str = include_str!("../../../guard-common/layout.lock");
/// Layouts without a description in their pinned maps, by version.
const UNDESCRIBED_LAYOUTS: [(u32, &str); 1] =
    [(3, include_str!("../../../guard-common/layouts/v3.lock"))];

/// The description of a layout: names and values of its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayoutDescription(BTreeMap<String, String>);

/// The meaning of a counter, if this build knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CounterMeaning {
    /// Whether a service decided, as opposed to the node.
    pub(super) by_service: bool,
    pub(super) action: Action,
    pub(super) reason: Reason,
    /// Index of the counter among those of the node, or among those of one service.
    pub(super) number: u32,
}

impl LayoutDescription {
    /// Returns the description of this layout.
    pub(super) fn own() -> Self {
        Self::parse(THIS_LAYOUT)
    }

    /// Reads the description of the layout that is pinned in a directory. None if the layout is
    /// unknown.
    pub(super) fn of(directory: &Path, version: u32) -> Result<Option<Self>, SystemError> {
        let path = directory.join(names::MAP_ABOUT);
        // A directory with the name of the map is not a map.
        if path.exists() && !path.is_dir() {
            let text = RawMap::open(&path).and_then(|map| map.lookup(&0_u32.to_ne_bytes()));
            let text = text.map_err(|error| SystemError::of(path.display(), error))?;
            let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
            let about = Self::parse(&String::from_utf8_lossy(text));
            // The map is empty if its daemon was killed before it wrote the description.
            if about.has_counters() {
                return Ok(Some(about));
            }
        }
        let known = UNDESCRIBED_LAYOUTS.iter().find(|(known, _)| *known == version);
        Ok(known.map(|(_, text)| Self::parse(text)))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(" = "));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Returns the description of this layout as the value of the map.
    pub(super) fn text() -> layout::About {
        let mut text = [0; ABOUT_BYTES];
        for (to, from) in text.iter_mut().zip(THIS_LAYOUT.bytes()) {
            *to = from;
        }
        text
    }

    /// Returns the value of a line that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.0.get(name)?.parse().ok()
    }

    /// Returns the byte offset of a 64-bit field in its struct.
    pub(super) fn word(&self, field: &str) -> Option<usize> {
        self.0.get(field)?.strip_prefix("u64 at byte ")?.parse().ok()
    }

    /// Returns the byte offset of a field in its struct.
    pub(super) fn at(&self, field: &str) -> Option<usize> {
        let (_, at) = self.0.get(field)?.rsplit_once(" at byte ")?;
        at.parse().ok()
    }

    /// Returns the size of a struct in bytes.
    pub(super) fn value_size(&self, name: &str) -> Option<usize> {
        self.0
            .get(name)?
            .strip_suffix(" bytes")?
            .parse()
            .ok()
            .filter(|size| (1..=MAX_VALUE).contains(size))
    }

    /// Reports whether the description covers how counters are stored and what they count.
    fn has_counters(&self) -> bool {
        let fields = ["Counter.packets", "Counter.bytes"];
        let numbers = [
            "MAX_SERVICES",
            "MAX_INTERFACES",
            "LABEL_INTERFACES",
            "layout::COUNTERS_PER_INTERFACE",
            "layout::NODE_COUNTERS",
            "layout::SERVICE_COUNTERS",
        ];
        fields.iter().all(|field| self.word(field).is_some())
            && numbers.iter().all(|name| self.number(name).is_some())
            && self.value_size("Counter").is_some()
            && !self.counters().is_empty()
    }

    /// Reports whether both layouts have the same lines with each of these prefixes, and at least
    /// one.
    pub(super) fn agrees(&self, other: &Self, prefixes: &[&str]) -> bool {
        let part = |about: &Self, prefix: &str| -> Vec<(String, String)> {
            let lines = about.0.iter().filter(|(name, _)| name.starts_with(prefix));
            lines.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        prefixes.iter().all(|prefix| {
            let own = part(self, prefix);
            !own.is_empty() && own == part(other, prefix)
        })
    }

    /// Returns the counters of an interface. Those of services are listed once, for all slots.
    pub(super) fn counters(&self) -> Vec<CounterMeaning> {
        let node_counters = self.number("layout::NODE_COUNTERS").unwrap_or(0);
        let counted = self.0.iter().filter_map(|(name, value)| {
            let (of, verdict) = name.strip_prefix("counter of ")?.split_once(": ")?;
            let by_service = of == "a service";
            let (action, reason) = verdict.split_once(", ")?;
            let number: u32 = value.parse().ok()?;
            Some(CounterMeaning {
                by_service,
                action: Action::ALL.into_iter().find(|known| known.name() == action)?,
                reason: Reason::from_name(reason)?,
                number: if by_service { number.checked_sub(node_counters)? } else { number },
            })
        });
        counted.collect()
    }

    /// Returns the number of reasons.
    pub(super) fn reasons(&self) -> u32 {
        let reasons = self.0.keys().filter(|name| name.starts_with("Reason ")).count();
        u32::try_from(reasons).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use guard_common::{layout::counters, verdict::Verdict};

    use super::*;

    #[test]
    fn the_description_of_this_layout_is_parsed_completely() {
        assert!(THIS_LAYOUT.len() < ABOUT_BYTES, "{} bytes", THIS_LAYOUT.len());
        let own = LayoutDescription::own();
        assert_eq!(own.number("LAYOUT_VERSION"), Some(layout::LAYOUT_VERSION));
        assert_eq!(own.word("Counter.bytes"), Some(8));
        assert_eq!(own.reasons(), u32::from(Reason::COUNT));
        let counters = own.counters();
        for CounterMeaning { by_service, action, reason, number } in &counters {
            let (verdict, first) = if *by_service {
                (Verdict::of_service(*action, *reason, 0), counters::NODE_COUNTERS)
            } else {
                (Verdict::of_node(*action, *reason), 0)
            };
            assert_eq!(counters::counter(verdict), first + number);
            assert!(if *by_service { reason.is_of_service() } else { reason.is_of_node() });
        }
        let meanings = (0..counters::NODE_COUNTERS + counters::SERVICE_COUNTERS)
            .filter(|index| counters::counter_meaning(*index).is_some());
        assert_eq!(counters.len(), meanings.count());
    }

    #[test]
    fn undescribed_layouts_are_known() {
        for (version, text) in UNDESCRIBED_LAYOUTS {
            let about = LayoutDescription::parse(text);
            assert_eq!(about.number("LAYOUT_VERSION"), Some(version));
            assert!(about.has_counters());
        }
    }

    #[test]
    fn layouts_agree_where_lines_are_the_same() {
        let own = LayoutDescription::own();
        let mut other = own.clone();
        assert!(own.agrees(&other, &["BucketStates", "Unit "]));
        assert!(!own.agrees(&other, &["No such line"]));
        other.0.insert("Unit Frames".to_owned(), "3".to_owned());
        assert!(!own.agrees(&other, &["Unit "]));
        assert!(own.agrees(&other, &["BucketStates"]));
    }

    #[test]
    fn damaged_descriptions_have_no_counters() {
        let whole = LayoutDescription::own();
        assert!(whole.has_counters());
        for (name, value) in [
            ("Counter", "18446744073709551615 bytes"),
            ("Counter", "0 bytes"),
            ("Counter.packets", "u32 at byte 0"),
            ("Counter.bytes", ""),
        ] {
            let mut damaged = whole.clone();
            damaged.0.insert(name.to_owned(), value.to_owned());
            assert!(!damaged.has_counters(), "{name} = {value}");
        }
        assert!(!LayoutDescription::parse(&THIS_LAYOUT[..THIS_LAYOUT.len() / 4]).has_counters());
        assert!(!LayoutDescription::parse("").has_counters());
    }
}
