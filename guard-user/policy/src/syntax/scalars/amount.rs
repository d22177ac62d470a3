//! Amounts and rates.

use super::lexical::{digits, is_ambiguous};
use crate::syntax::{
    rules, text,
    walk::{Fault, one_of},
};

/// The unit that an amount counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// Connections or packets: no suffix, `k`, `M` or `G`.
    Units,
    /// Bytes: `B`, `kB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`.
    Bytes,
}

impl Counted {
    fn units(self) -> &'static [(&'static str, u64)] {
        match self {
            Self::Units => &[("", 1), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)],
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
            Self::Units => "1000, 400k or 2M",
            Self::Bytes => "64MB, 500kB or 64MiB",
        }
    }

    /// Returns the maximum rate per second.
    pub(crate) fn max_rate(self) -> u64 {
        match self {
            Self::Units => 1_000_000_000,
            Self::Bytes => 1_000_000_000_000,
        }
    }
}

/// Parses a number with a unit. Returns the number of connections, packets or bytes.
pub(crate) fn amount(text: &str, plain: bool, counted: Counted) -> Result<u64, Fault> {
    let shown = text::shown(text);
    let examples = counted.examples();
    if !plain && digits(text).is_some() {
        let message = format!("\"{shown}\" is a text, expected a number");
        return Err(Fault::new(rules::AMBIGUOUS, message)
            .help(format!("write {shown}, without quotes"))
            .instead(text));
    }
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let Some(number) = digits(number) else {
        let odd = is_ambiguous(text) || text.starts_with(|c: char| c.is_ascii_digit() || c == '+');
        let code = if odd { rules::AMBIGUOUS } else { rules::AMOUNT };
        let message = format!("`{shown}` is not a whole number in plain digits");
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
        let code =
            if is_ambiguous(text) && !unit.is_empty() { rules::AMBIGUOUS } else { rules::AMOUNT };
        return Err(Fault::new(code, message).help(format!("write it like {examples}")));
    };
    number.checked_mul(*factor).ok_or_else(|| {
        Fault::new(rules::AMOUNT, format!("`{shown}` is too large: it does not fit 64 bits"))
    })
}

/// Parses an amount per second, such as `200/s` or `500MB/s`.
pub(crate) fn rate(text: &str, counted: Counted) -> Result<u64, Fault> {
    let shown = text::shown(text);
    let Some(number) = text.strip_suffix("/s") else {
        return Err(Fault::new(rules::AMOUNT, format!("`{shown}` is not a rate")).help(format!(
            "write an amount per second, such as {}/s",
            match counted {
                Counted::Units => "200",
                Counted::Bytes => "500MB",
            }
        )));
    };
    let rate = amount(number, true, counted)?;
    let max = counted.max_rate();
    if rate == 0 || rate > max {
        let message = format!("`{shown}` is out of range, expected 1 to {max} per second");
        return Err(Fault::new(rules::AMOUNT, message));
    }
    Ok(rate)
}
