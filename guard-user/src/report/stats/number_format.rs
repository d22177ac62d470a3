//! Formats numbers, ages and names in few columns.

use std::time::{Duration, SystemTime};

use unicode_width::UnicodeWidthChar as _;

use super::rates::real;
use crate::{policy::syntax::text, text::short};

/// Formats a count: exact up to nine digits.
pub fn count(value: u64) -> String {
    if value < 1_000_000_000 { value.to_string() } else { short(real(value)) }
}

/// Formats a share in per cent; `-` if the whole is 0.
pub fn percent(part: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return "-".to_owned();
    }
    let share = 100.0 * part / whole;
    if share <= 0.0 {
        "0".to_owned()
    } else if share < 0.01 {
        "<0.01".to_owned()
    } else if share < 9.995 {
        format!("{share:.2}")
    } else if part < whole {
        // A part below 100 % is never rounded to 100.
        format!("{:.1}", share.min(99.9))
    } else {
        "100".to_owned()
    }
}

/// Formats a duration: `41s`, `12m`, `2h14m`, `3d4h`.
pub fn age(length: Duration) -> String {
    let seconds = length.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes == 0 => format!("{seconds}s"),
        () if hours == 0 => format!("{minutes}m"),
        () if days == 0 => format!("{hours}h{}m", minutes % 60),
        () if days < 10_000 => format!("{days}d{}h", hours % 24),
        () => format!("{days}d"),
    }
}

/// Returns the time between two timestamps of the documents; none if one is invalid, zero if the
/// clock was set back between them.
pub fn between(then: &str, now: &str) -> Option<Duration> {
    let read = |text: &str| -> Option<SystemTime> { humantime::parse_rfc3339_weak(text).ok() };
    let (then, now) = (read(then)?, read(now)?);
    Some(now.duration_since(then).unwrap_or_default())
}

/// Returns the time of day of a timestamp of the documents, in UTC; the escaped text if it is
/// invalid.
pub fn time_of_day(time: &str) -> String {
    match time.get(11..19).filter(|_| humantime::parse_rfc3339_weak(time).is_ok()) {
        Some(time) => format!("{time}Z"),
        None => text::shown(time),
    }
}

/// Escapes a foreign name for a terminal: limits its length, and escapes characters that control,
/// hide or have no width. With `ascii`, also escapes everything beyond ASCII.
pub fn name(raw: &str, ascii: bool) -> String {
    line(&text::shown(raw), ascii)
}

/// Escapes a line that contains such names, in the same way.
pub fn line(raw: &str, ascii: bool) -> String {
    const MAX: usize = 2000;
    let mut shown = String::new();
    for character in raw.chars().take(MAX) {
        let bare = character.width().unwrap_or(0) == 0;
        if bare || text::is_forbidden(character) || (ascii && !character.is_ascii()) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_short() {
        let cases = [
            (0.0, "0"),
            (0.01, "<0.1"),
            (0.5, "0.5"),
            (1.0, "1"),
            (61.0, "61"),
            (999.4, "999"),
            (999.6, "1.0 k"),
            (1_812.0, "1.8 k"),
            (10_300_000.0, "10.3 M"),
            (999_600_000.0, "1.0 G"),
            (f64::NAN, "0"),
            (-3.0, "0"),
        ];
        for (value, shown) in cases {
            assert_eq!(short(value), shown, "{value}");
        }
        assert_eq!(count(u64::MAX), "18.4 E");
    }

    #[test]
    fn a_small_share_is_not_0_and_a_part_is_not_100() {
        assert_eq!(percent(0.0, 0.0), "-");
        assert_eq!(percent(0.0, 5.0), "0");
        assert_eq!(percent(1.0, 1e9), "<0.01");
        assert_eq!(percent(1.0, 3.0), "33.3");
        assert_eq!(percent(999_999.0, 1e6), "99.9");
        assert_eq!(percent(7.0, 7.0), "100");
    }

    #[test]
    fn ages_are_short_and_never_negative() {
        let shown = |seconds| age(Duration::from_secs(seconds));
        assert_eq!([41, 725, 8_040, 273_600].map(shown), ["41s", "12m", "2h14m", "3d4h"]);
        let back = between("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z");
        assert_eq!(back, Some(Duration::ZERO));
        assert_eq!(between("never", "2026-01-01T00:00:00Z"), None);
        assert_eq!(time_of_day("2026-01-01T12:03:11.123Z"), "12:03:11Z");
        assert_eq!(time_of_day("\u{1b}[2J"), "\\u{1b}[2J");
    }

    proptest! {
        #[test]
        fn a_short_number_has_at_most_six_columns(value in any::<f64>(), total in any::<u64>()) {
            if value < 1e21 {
                prop_assert!(short(value).len() <= 6, "{}", short(value));
            }
            prop_assert!(count(total).len() <= 9);
        }

        #[test]
        fn a_name_has_no_control_characters(raw in any::<String>()) {
            let plain = |c: char| !c.is_control() && c.width().unwrap_or(0) > 0;
            prop_assert!(name(&raw, false).chars().all(plain));
            prop_assert!(name(&raw, true).is_ascii());
        }
    }
}
