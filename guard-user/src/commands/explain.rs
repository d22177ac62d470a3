//! `trainguard explain`: explains a lint finding or the reason of a verdict.

use crate::{cli::ExplainArgs, exit::Exit, explain, output, report};

/// Runs `trainguard explain`.
pub fn run(args: &ExplainArgs) -> Exit {
    let Some(query) = &args.name else {
        report::explain::list(args.format);
        return Exit::Yes;
    };
    let Some(name) = explain::name(query) else {
        let shown = crate::policy::syntax::text::shown(query);
        output::error(format_args!(
            "`{shown}` is neither the code of a finding nor the reason of a verdict"
        ));
        match explain::nearest(query) {
            Some(near) => output::hint(format_args!("did you mean `{near}`?")),
            None => output::hint("`trainguard explain` lists them all"),
        }
        return Exit::NoAnswer;
    };
    report::explain::page(name, args.format);
    Exit::Yes
}
