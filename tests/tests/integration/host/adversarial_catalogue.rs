//! The adversarial cases of operations, each with the tests that play it or the reason why there is
//! none: `tests/cases.yaml`.

use std::{collections::BTreeSet, fs, path::Path};

use guard_tests::world::{data, yaml};
use serde::Deserialize;

/// Numbers of the cases that are about operations.
const NUMBERS: [std::ops::RangeInclusive<u32>; 3] = [73..=115, 124..=130, 144..=150];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    case: u32,
    what: String,
    /// `FILE::FUNCTION`, a file of the repository and a function in it; for a script of a guest, a file
    /// and the name of a check.
    #[serde(default)]
    tests: Vec<String>,
    /// Why there is no test, or which part of the case has none.
    #[serde(default)]
    left: Option<String>,
}

#[test]
fn each_case_has_its_tests_or_a_reason() {
    let cases: Vec<Entry> = yaml(&data("cases.yaml"));
    let numbers: Vec<u32> = cases.iter().map(|case| case.case).collect();
    let expected: Vec<u32> = NUMBERS.into_iter().flatten().collect();
    assert_eq!(numbers, expected, "each case once, in order");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for Entry { case, what, tests, left } in &cases {
        assert!(!what.trim().is_empty(), "case {case}");
        assert!(!tests.is_empty() || left.is_some(), "case {case} has neither a test nor a reason");
        assert_eq!(tests.len(), tests.iter().collect::<BTreeSet<_>>().len(), "case {case}");
        for test in tests {
            let (file, name) = test.split_once("::").expect("FILE::NAME");
            let text = fs::read_to_string(root.join(file));
            let text = text.unwrap_or_else(|error| panic!("case {case}: {file}: {error}"));
            let exists = if Path::new(file).extension().is_some_and(|kind| kind == "rs") {
                text.contains(&format!("fn {name}("))
            } else {
                text.contains(name)
            };
            assert!(exists, "case {case}: no `{name}` in {file}");
        }
    }
}
