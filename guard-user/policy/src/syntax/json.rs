//! Converts a document to JSON as other readers of YAML do, for validation with a JSON Schema.

use std::path::Path;

use serde_json::{Map, Number, Value};

use super::{
    diagnostic::Report,
    yaml::{self, Kind, Node},
};

/// Converts a text in trainguard's YAML dialect to a JSON value. Returns none if the text is not valid.
///
/// Plain scalars get the types of YAML's core schema (YAML 1.2, 10.3.2), except that infinities and NaN
/// stay text, because JSON does not have them. A non-negative float without a fraction becomes an
/// integer.
pub fn value(text: &str) -> Option<Value> {
    let mut findings = Report::default();
    let file = findings.sources.add(Path::new(""), text.into());
    yaml::read(file, text, &mut findings).map(|tree| of_node(&tree))
}

fn of_node(node: &Node<'_>) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Scalar { text, plain: false } => text.as_ref().into(),
        Kind::Scalar { text, plain: true } => plain(text),
        Kind::Sequence(items) => items.iter().map(of_node).collect(),
        Kind::Mapping(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|(key, value)| (key.text.to_string(), of_node(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

fn plain(text: &str) -> Value {
    match text {
        "true" | "True" | "TRUE" => return true.into(),
        "false" | "False" | "FALSE" => return false.into(),
        _ => {}
    }
    number(text).map_or_else(|| text.into(), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    for (prefix, radix) in [("0o", 8), ("0x", 16)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            // The standard library would accept a sign here.
            let unsigned = !digits.starts_with(['+', '-']);
            return u64::from_str_radix(digits, radix).ok().filter(|_| unsigned).map(Into::into);
        }
    }
    // The rest of a float begins with a digit or a dot; words such as `inf` and `nan` do not.
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let bare = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = bare.parse::<u64>() {
        return Some(whole.into());
    }
    if let Ok(whole) = bare.parse::<i64>() {
        return Some(whole.into());
    }
    let float: f64 = text.parse().ok()?;
    Number::from_f64(float).map(|number| whole(float).unwrap_or(number))
}

/// Returns a float without a fraction as an integer, as which JSON Schema treats it; none for a
/// negative or too large one.
fn whole(float: f64) -> Option<Number> {
    (float.fract() == 0.0)
        .then(|| format!("{float:.0}"))
        .and_then(|digits| digits.parse::<u64>().ok().map(Into::into))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_have_the_types_of_the_core_schema() {
        for (text, expected) in [
            ("~", json!(null)),
            ("null", json!(null)),
            ("\"null\"", json!("null")),
            ("True", json!(true)),
            ("yes", json!("yes")),
            ("'true'", json!("true")),
            ("010", json!(10)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0x+1", json!("0x+1")),
            ("-5", json!(-5)),
            ("+5", json!(5)),
            ("1_000", json!("1_000")),
            ("1e3", json!(1000)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("inf", json!("inf")),
            ("1e999", json!("1e999")),
            ("10.0.0.1", json!("10.0.0.1")),
            ("200/s", json!("200/s")),
            ("[a, {b: 1}]", json!(["a", { "b": 1 }])),
        ] {
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for text in ["a: 1\na: 2", "*a", "!!str a", "[", ""] {
            assert_eq!(value(text), None, "{text}");
        }
    }
}
