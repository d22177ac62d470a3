//! Compares the parser with the JSON Schemas. `commands::generate::schema` defines what counts as shape.
//! Here it is decided by the finding's code, or by its message where a code is only partly about shape.

use guard_test_support::bundle::MANIFEST;
use jsonschema::Validator;
use serde_json::Value;

use guard_user::policy;
use guard_user::{
    cli::SchemaDocument,
    commands::generate::schema,
    policy::{
        Bundle,
        syntax::{
            diagnostic::{Diagnostic, Report, Severity},
            json,
        },
    },
};

/// Returns the validator for the schema of a document.
pub(crate) fn validator(document: SchemaDocument) -> Validator {
    let schema: Value = serde_json::from_str(schema::text(document)).expect("JSON");
    let built = jsonschema::draft7::options().build(&schema);
    built.unwrap_or_else(|error| panic!("{document:?}: {error}"))
}

/// Returns the codes of the parser's findings about the shape of a document.
fn shape_codes(document: SchemaDocument, text: &str) -> Vec<u16> {
    let (path, texts) = match document {
        SchemaDocument::Cluster => ("m.yaml", vec![("m.yaml", text)]),
        _ => ("p.yaml", vec![("m.yaml", MANIFEST), ("p.yaml", text)]),
    };
    let report = match policy::load("m.yaml".as_ref(), &Bundle::new("m.yaml", texts)) {
        Ok(loaded) => loaded.report,
        Err(error) => error.report,
    };
    let about = |finding: &&Diagnostic| {
        report.sources.get(finding.place.file).is_some_and(|s| s.path.as_os_str() == path)
    };
    let findings = report.diagnostics.iter().filter(about);
    findings.filter(|finding| is_shape(&report, finding)).map(|finding| finding.code.0).collect()
}

fn is_shape(report: &Report, finding: &Diagnostic) -> bool {
    if finding.severity != Severity::Error {
        return false;
    }
    let mentions = |words: &str| finding.message.contains(words);
    let source = report.sources.get(finding.place.file).expect("a source");
    let span = finding.place.span;
    let value = source.text.get(span.start as usize..span.end as usize).unwrap_or_default();
    let value = value.trim_matches(['"', '\'']);
    match finding.code.0 {
        6 | 7 | 101 | 102 | 106 | 107 | 109 | 112 | 114 | 206 | 411 => true,
        // An address that a host list expands to is not shape; the message shows which of the two it is
        // about.
        104 if value.contains(['[', ']']) => mentions("[") || mentions("]"),
        104 => !mentions("is an IPv4-mapped"),
        105 => !mentions("runs backwards"),
        // A name itself is shape; a name that is expanded from a host list or joined with another is
        // not.
        110 => mentions("is not a name") || mentions("the name has"),
        111 if mentions("a burst of") => mentions("a burst of 0 "),
        111 => !mentions("does not fit 64 bits") || value.ends_with("/s"),
        // A host list gets one finding even if several apply, so the finding need not be the one about
        // shape.
        113 => {
            let digit = if value.contains(':') { "[0-9a-fA-F]" } else { "[0-9]" };
            let range = format!("{digit}+(-{digit}+)?");
            let list = format!(r"^[^\[\]]*(\[{range}(,{range})*\][^\[\]]*)+$");
            !regex::Regex::new(&list).expect("an expression").is_match(value)
        }
        _ => false,
    }
}

/// Asserts that parser and schema agree about the shape of a text. Returns `false` if the text is not of
/// our YAML dialect.
pub(crate) fn assert_parser_and_schema_agree(
    document: SchemaDocument,
    validator: &Validator,
    text: &str,
) -> bool {
    let Some(value) = json::value(text) else {
        return false;
    };
    // `010` as written is ambiguous: 8 or 10. Its value is not. How a value is written is not shape.
    let as_value = shape_codes(document, &value.to_string());
    let mut as_written = shape_codes(document, text);
    as_written.retain(|code| *code != 6 || as_value.contains(code));
    let errors: Vec<String> = validator
        .iter_errors(&value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    for (codes, how) in [(&as_written, "as written"), (&as_value, "as a value")] {
        assert_eq!(
            codes.is_empty(),
            errors.is_empty(),
            "{document:?} {how}: the parser reports {codes:?}, the schema {errors:#?}\n{text}"
        );
    }
    true
}
