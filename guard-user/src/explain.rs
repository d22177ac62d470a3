//! What the findings of lint and the reasons of verdicts mean: a page each, part of the binary.

use crate::policy::nearest as nearest_of;

/// A page in Markdown. Its first line is `# NAME: title`.
struct Page {
    name: &'static str,
    text: &'static str,
}

macro_rules! pages {
    ($($name:literal)*) => {
        &[$(Page { name: $name, text: include_str!(concat!("../explain/", $name, ".md")) },)*]
    };
}

/// All pages: the codes in their order, then the reasons in the order of a decision.
const PAGES: &[Page] = pages! {
    "TG001" "TG002" "TG003" "TG004" "TG005" "TG006" "TG007" "TG008" "TG009" "TG010"
    "TG101" "TG102" "TG103" "TG104" "TG105" "TG106" "TG107" "TG109" "TG110" "TG111" "TG112" "TG113"
    "TG114"
    "TG201" "TG202" "TG203" "TG204" "TG205" "TG206" "TG207" "TG208" "TG209" "TG210" "TG211" "TG212"
    "TG213" "TG214"
    "TG301" "TG302" "TG303"
    "TG401" "TG402" "TG403" "TG404" "TG405" "TG407" "TG408" "TG409" "TG410" "TG411" "TG412" "TG413" "TG414"
    "TG415"
    "TG501" "TG502" "TG503" "TG504" "TG505"
    "TG901" "TG902" "TG903"
    "not_ip" "unguarded" "undecodable" "malformed_ip" "too_many_headers" "fragment" "malformed_l4"
    "tunnel" "established" "allowed" "martian" "not_allowed" "limit_new_connections" "limit_packets"
    "limit_bytes" "limit_total_new_connections" "limit_total_packets" "limit_total_bytes"
};

/// The name of the page that is meant: a code (`TG103`, `tg103`, `103`) or a reason
/// (`not_allowed`).
pub fn name(asked: &str) -> Option<&'static str> {
    find(asked).map(|page| page.name)
}

/// A page.
pub fn page(asked: &str) -> Option<&'static str> {
    find(asked).map(|page| page.text)
}

/// The title of a page, without the name.
pub fn title(asked: &str) -> Option<&'static str> {
    let (head, _) = find(asked)?.text.split_once('\n')?;
    head.split_once(": ").map(|(_, title)| title)
}

/// The names of all pages.
pub fn names() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|page| page.name)
}

/// The name that was probably meant.
pub fn nearest(asked: &str) -> Option<&'static str> {
    nearest_of(&full(asked), names())
}

fn find(asked: &str) -> Option<&'static Page> {
    let asked = full(asked);
    PAGES.iter().find(|page| page.name.eq_ignore_ascii_case(&asked))
}

/// A code that is only a number, written out.
fn full(asked: &str) -> String {
    match asked.parse::<u16>() {
        Ok(number) => format!("TG{number:03}"),
        Err(_) => asked.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_as_people_type_them() {
        for asked in ["TG103", "tg103", "103"] {
            assert_eq!(name(asked), Some("TG103"), "{asked}");
        }
        assert_eq!(name("1"), Some("TG001"));
        for asked in ["", "TG", "TG999", "999", "99999999", "TG103 ", "\u{202e}"] {
            assert_eq!(name(asked), None, "{asked:?}");
        }
        assert_eq!(nearest("TG1O3"), Some("TG103"));
        assert_eq!(nearest("what is this"), None);
    }

    #[test]
    fn every_page_begins_with_its_name_and_has_a_title() {
        for name in names() {
            let page = page(name).unwrap();
            let title = title(name).unwrap();
            assert!(page.starts_with(&format!("# {name}: {title}\n\n")), "{name}");
            assert!((10..=40).contains(&page.lines().count()), "{name}");
        }
    }
}
