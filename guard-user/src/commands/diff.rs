//! `trainguard diff`: lists the sources that a change of policy admits or refuses.

use std::path::Path;

use super::shared::{
    inputs::{Overlay, STDIN},
    load::load,
};
use crate::{
    cli::DiffArgs,
    exit::Exit,
    output,
    policy::{
        Files as _, Loaded, diff,
        resolve::load::{FileKind, Loader},
    },
    report,
    text::shown_path,
};

/// Runs `trainguard diff`.
pub fn run(args: &DiffArgs) -> Exit {
    let files = Overlay::default();
    if args.old == Path::new(STDIN) || args.new == Path::new(STDIN) {
        if args.old == args.new {
            output::error("only one of OLD and NEW can be standard input");
            return Exit::NoAnswer;
        }
        files.read_stdin();
    }
    let Some((old, new)) = load_both(args, &files) else { return Exit::NoAnswer };
    let difference = match diff::compare(&old.cluster, &new.cluster) {
        Ok(difference) => difference,
        Err(error) => {
            output::error(error);
            return Exit::NoAnswer;
        }
    };
    let manifest = args.manifest.as_deref().unwrap_or(&args.new);
    report::diff::print(&difference, [&old.cluster, &new.cluster], manifest, args.format);
    if args.deny_wider && difference.is_wider() {
        output::message("the change admits more than before, which --deny-wider forbids");
        return Exit::No;
    }
    Exit::Yes
}

/// Loads two manifests; or, for two policies, the manifest once with the old and once with the new
/// text of the policy.
fn load_both(args: &DiffArgs, files: &Overlay) -> Option<(Loaded, Loaded)> {
    let kind = |path: &Path| {
        let mut loader = Loader::new(files);
        (loader.kind(path), loader.policy_name(path))
    };
    let (old_kind, _) = kind(&args.old);
    let (new_kind, new_name) = kind(&args.new);
    let of_policies = old_kind == FileKind::Policy && new_kind == FileKind::Policy;
    let Some(manifest) = args.manifest.as_deref().filter(|_| of_policies) else {
        if of_policies {
            output::error("two policies can only be compared with the manifest of their cluster");
            output::hint("add --manifest FILE, or compare two manifests");
            return None;
        }
        if old_kind != FileKind::Broken && new_kind != FileKind::Broken && old_kind != new_kind {
            output::error("a manifest and a policy cannot be compared");
            output::hint("compare two manifests, or two policies with --manifest FILE");
            return None;
        }
        if args.manifest.is_some() && old_kind == FileKind::Cluster {
            output::error("--manifest is for two policies; these are manifests");
            return None;
        }
        return Some((load(&args.old, files)?, load(&args.new, files)?));
    };
    // Find the manifest's file with the policy of that name.
    let whole = load(manifest, files)?;
    let name = new_name?;
    let place = whole.bundle.paths().find(|path| {
        let mut loader = Loader::new(files);
        loader.kind(path) == FileKind::Policy && loader.policy_name(path).as_ref() == Some(&name)
    });
    let Some(place) = place.map(Path::to_owned) else {
        output::error(format_args!("`{}` names no policy `{name}`", shown_path(manifest)));
        output::hint("the manifest must list a file with a policy of that name");
        return None;
    };
    let texts = [&args.old, &args.new].map(|path| files.read(path));
    let mut both = texts.into_iter().map(|text| {
        files.put(place.clone(), text);
        load(manifest, files)
    });
    Some((both.next()??, both.next()??))
}
