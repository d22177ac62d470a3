//! `trainguard schema`: the JSON Schemas (draft-07) of the documents, for editors and other tools.
//!
//! They accept exactly what the parser accepts in **shape**. A document is validated as the JSON
//! value that a reader of YAML 1.2's core schema gets ([`crate::policy::syntax::json`]). Shape is
//! everything that can be checked on the value itself:
//!
//! - the fields: unknown fields (TG101), missing fields (TG102), the wrong `apiVersion` or `kind`
//!   (TG107), a value of the wrong type (TG109), a word that is not one of the permitted ones
//!   (TG112);
//! - null and empty lists: TG007, in `allow` TG206, for `addresses` TG411;
//! - the syntax of single values: prefixes and addresses (TG104), ports (TG105), interface patterns
//!   (TG106), names (TG110), rates and amounts (TG111), host lists (TG113), paths (TG114), numbers
//!   and booleans where a text belongs and the reverse (TG006). Ports, prefix lengths, octets and
//!   rates have their ranges.
//!
//! Not part of the shape, so that only `trainguard lint` finds them:
//!
//! - how a value is written, if its JSON value is valid: `yes` for a name, `010`, `+5` and `1e3`
//!   for an amount, `True` (TG006), and everything else about the dialect (TG001 to TG005, TG008,
//!   TG009);
//! - bits beyond the length of a prefix (TG103), IPv4-mapped addresses (TG104), ranges that run
//!   backwards (TG105, TG113), padding and size of host lists and what they expand to (TG104, TG110,
//!   TG113, TG502), a burst against its rate and amounts beyond 64 bits (TG111);
//! - everything that depends on names, other fields or other files.
//!
//! Decision: `docs/decisions/0028-schemas-are-compared-with-the-parser.md`.

use crate::{
    cli::{SchemaArgs, SchemaDocument},
    exit::Exit,
    output,
};

/// Returns the JSON Schema of a document.
pub fn text(document: SchemaDocument) -> &'static str {
    match document {
        SchemaDocument::Cluster => include_str!("../../../schema/cluster.schema.json"),
        SchemaDocument::Policy => include_str!("../../../schema/policy.schema.json"),
        SchemaDocument::Test => include_str!("../../../schema/test.schema.json"),
    }
}

/// Runs `trainguard schema`.
pub fn run(args: &SchemaArgs) -> Exit {
    output::answer(text(args.document).trim_end());
    Exit::Yes
}
