//! Pages that explain the findings of `lint` and the reasons of verdicts. They are embedded in the
//! binary.

use guard_common::verdict::Reason;

use crate::policy::{nearest as nearest_of, syntax::rules};

/// Name and text of a page in Markdown. The first line is `# NAME: title`.
type Page = (&'static str, &'static str);

/// All pages, sorted by name. The build script includes the files in `explain/`.
const PAGES: &[Page] = &include!(concat!(env!("OUT_DIR"), "/pages.rs"));

/// Returns the name of the page for a code (`TG103`, `tg103`, `103`) or a reason (`not_allowed`).
pub fn name(query: &str) -> Option<&'static str> {
    find(query).map(|(name, _)| name)
}

/// Returns the text of the page for a code or a reason.
///
/// # Examples
///
/// ```
/// use guard_user::explain;
///
/// let page = explain::page("not_allowed").expect("each reason has a page");
/// assert!(page.starts_with("# not_allowed: "));
/// assert!(explain::page("no_such_name").is_none());
/// ```
pub fn page(query: &str) -> Option<&'static str> {
    find(query).map(|(_, text)| text)
}

/// Returns the title of the page for a code or a reason, without the name.
pub fn title(query: &str) -> Option<&'static str> {
    let (head, _) = find(query)?.1.split_once('\n')?;
    head.split_once(": ").map(|(_, title)| title)
}

/// Returns the names of all pages: the rules by number, then the reasons in the order of their
/// numbers.
pub fn names() -> impl Iterator<Item = &'static str> {
    let rules = rules::ALL.iter().map(ToString::to_string);
    let reasons = Reason::ALL.iter().map(|reason| reason.name().to_owned());
    rules.chain(reasons).filter_map(|name| find(&name).map(|(name, _)| name))
}

/// Returns the name that is most similar to `query`, if any is similar.
pub fn nearest(query: &str) -> Option<&'static str> {
    nearest_of(&full(query), names())
}

fn find(query: &str) -> Option<Page> {
    let query = full(query);
    PAGES.iter().copied().find(|(name, _)| name.eq_ignore_ascii_case(&query))
}

/// Completes a code that is only a number.
fn full(query: &str) -> String {
    match query.parse::<u16>() {
        Ok(number) => format!("TG{number:03}"),
        Err(_) => query.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_in_any_case_and_without_their_prefix() {
        for query in ["TG103", "tg103", "103"] {
            assert_eq!(name(query), Some("TG103"), "{query}");
        }
        assert_eq!(name("1"), Some("TG001"));
        for query in ["", "TG", "TG999", "999", "99999999", "TG103 ", "\u{202e}"] {
            assert_eq!(name(query), None, "{query:?}");
        }
        assert_eq!(nearest("TG1O3"), Some("TG103"));
        assert_eq!(nearest("what is this"), None);
    }

    #[test]
    fn each_rule_and_each_reason_has_a_page_and_no_other_page_exists() {
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
