//! Pages that explain the findings of `lint` and the reasons of verdicts. They are embedded in the
//! binary.

use guard_common::verdict::Reason;

use crate::policy::{nearest as nearest_of, syntax::rules};

/// Name and text of a page in Markdown. The first line is `# NAME: title`.
type Page = (&'static str, &'static str);

/// All pages, sorted by name. The build script includes the files in `explain/`.
const PAGES: &[Page] = &include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// Returns the name of the page for a code (`TG103`, `tg103`, `103`) or a reason (`not_allowed`).
pub fn name(asked: &str) -> Option<&'static str> {
    find(asked).map(|(name, _)| name)
}

/// Returns the text of the page for a code or a reason.
pub fn page(asked: &str) -> Option<&'static str> {
    find(asked).map(|(_, text)| text)
}

/// Returns the title of the page for a code or a reason, without the name.
pub fn title(asked: &str) -> Option<&'static str> {
    let (head, _) = find(asked)?.1.split_once('\n')?;
    head.split_once(": ").map(|(_, title)| title)
}

/// Returns the names of all pages: the rules by number, then the reasons in the order of their
/// numbers.
pub fn names() -> impl Iterator<Item = &'static str> {
    let rules = rules::ALL.iter().map(ToString::to_string);
    let reasons = Reason::ALL.iter().map(|reason| reason.name().to_owned());
    rules.chain(reasons).filter_map(|name| find(&name).map(|(name, _)| name))
}

/// Returns the name that is most similar to `asked`, if any is similar.
pub fn nearest(asked: &str) -> Option<&'static str> {
    nearest_of(&full(asked), names())
}

fn find(asked: &str) -> Option<Page> {
    let asked = full(asked);
    PAGES.iter().copied().find(|(name, _)| name.eq_ignore_ascii_case(&asked))
}

/// Completes a code that is only a number.
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
    fn there_is_a_page_for_each_rule_and_each_reason_and_no_other() {
        let mut names: Vec<&str> = names().collect();
        assert_eq!(names.len(), rules::ALL.len() + Reason::ALL.len());
        names.sort_unstable();
        assert_eq!(names, PAGES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
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
