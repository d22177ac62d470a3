//! `cargo xtask dist`: packages of a static binary. The same sources give the same bytes.
//!
//! Libraries write the packages: the formats are small, and each distribution lacks the tools of the
//! other.
//!
//! Decision: `docs/decisions/0052-packages-by-xtask.md`.

mod archive;
mod attempt;
mod contents;
mod deb;
mod notices;
mod rpm;
mod verify;

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};

use self::contents::Contents;
use crate::{build, sh, toolchain};

/// Statically linked, with musl: runs on any x86-64 Linux with a supported kernel.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// The maintainer that the packages name.
const MAINTAINER: &str = "trainguard <trainguard@users.noreply.github.com>";

/// Arguments of `cargo xtask dist`.
#[derive(Debug, Args)]
pub(crate) struct DistArgs {
    /// Set the packages' revision, if this version is packed again
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    revision: Option<u32>,
    /// Pack this binary instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Also install, upgrade and remove the packages in a temporary root directory (needs root; an
    /// overlay, so this machine's own root directory does not change)
    #[arg(long = "try")]
    attempt: bool,
}

/// Data that all packages share.
#[derive(Debug, Clone)]
struct Release {
    /// Version of the sources.
    version: String,
    /// Revision of the packages.
    revision: Option<u32>,
    /// Time of modification of every file in the packages, in seconds since 1970.
    time: u32,
}

/// Packs a binary of this machine for guests: `NAME.deb` and `NAME.rpm`. The revision distinguishes
/// packages of one version.
pub(crate) fn pack(binary: &Path, revision: Option<u32>, name: &Path) -> Result<()> {
    let release = Release { version: version(binary)?, revision, time: time()? };
    let contents = Contents::gather(binary)?;
    let packages =
        [("deb", deb::package(&release, &contents)?), ("rpm", rpm::package(&release, &contents)?)];
    for (kind, bytes) in packages {
        let to = name.with_extension(kind);
        fs::write(&to, bytes).with_context(|| to.display().to_string())?;
    }
    Ok(())
}

/// Makes the packages in `target/dist` and lists them. Returns whether they pass `--try`, if it is given.
pub(crate) fn run(args: &DistArgs) -> Result<bool> {
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => static_binary()?,
    };
    let release = Release { version: version(&binary)?, revision: args.revision, time: time()? };
    let contents = Contents::gather(&binary)?;
    let directory = sh::root().join("target/dist");
    // The directory contains packages of another version.
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    // A binary given with `--binary` may be for a test, so a finding is only a warning. A binary that is
    // built here is for distribution and must pass.
    match (verify::binary(&binary), &args.binary) {
        (Err(error), None) => return Err(error),
        (Err(error), Some(_given)) => eprintln!("warning: {error:#}"),
        (Ok(()), _) => {}
    }
    let mut sums = Vec::new();
    for (name, bytes) in [
        (deb::name(&release), deb::package(&release, &contents)?),
        (rpm::name(&release), rpm::package(&release, &contents)?),
        (archive::name(&release), archive::package(&release, &contents)?),
    ] {
        let hash = hexadecimal(&Sha256::digest(&bytes));
        println!("{hash}  {name} ({} KiB)", bytes.len() / 1024);
        sums.push(format!("{hash}  {name}\n"));
        fs::write(directory.join(&name), bytes).with_context(|| name)?;
    }
    fs::write(directory.join("SHA256SUMS"), sums.concat())?;
    verify::rpm(&fs::read(directory.join(rpm::name(&release)))?)?;
    if !verify::deb(&directory.join(deb::name(&release)))? {
        eprintln!("lintian is not installed: the deb was not checked");
    }
    println!("packages written to {}", directory.display());
    if args.attempt { attempt::run(&release, &contents, &directory) } else { Ok(true) }
}

/// Formats a hash as in lists of checksums.
fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Builds the binary to pack.
fn static_binary() -> Result<PathBuf> {
    let tools = toolchain::ensure(false)?;
    toolchain::ensure_target(TARGET)?;
    build::static_binary(&tools, TARGET)
}

/// Returns the version that the binary prints.
fn version(binary: &Path) -> Result<String> {
    let said = sh::read(Command::new(binary).arg("--version"))?;
    let version = said.trim().strip_prefix("trainguard ").unwrap_or_default();
    ensure!(
        !version.is_empty(),
        "`{} --version` printed `{}`, expected `trainguard VERSION`",
        binary.display(),
        said.trim()
    );
    Ok(version.to_owned())
}

/// Returns the time of the last change of the sources, see
/// <https://reproducible-builds.org/specs/source-date-epoch>.
fn time() -> Result<u32> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(time) => time,
        Err(_unset) => {
            let mut git = Command::new("git");
            git.current_dir(sh::root());
            git.args(["-c", "safe.directory=*", "log", "-1", "--format=%ct"]);
            sh::read(&mut git).context("reading the time of the last commit; without a git repository, set SOURCE_DATE_EPOCH")?
        }
    };
    text.trim().parse().with_context(|| format!("`{}` is not a time in seconds", text.trim()))
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _, path::Component};

    use flate2::read::GzDecoder;

    use super::*;

    /// A script that answers the calls which packing makes to a binary.
    const BINARY: &str = "#!/bin/sh\n\
        case $1 in --version) echo trainguard 9.8.7;; completions) echo complete $2;; \
        man) echo .TH > $3/trainguard.1;; esac\n";

    fn contents() -> Contents {
        let directory = tempfile::tempdir().expect("a directory");
        let binary = directory.path().join("trainguard");
        fs::write(&binary, BINARY).expect("writing");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("its mode");
        assert_eq!(version(&binary).expect("a version"), "9.8.7");
        Contents::gather(&binary).expect("contents")
    }

    fn release(revision: Option<u32>) -> Release {
        Release { version: "9.8.7".to_owned(), revision, time: 1_700_000_000 }
    }

    /// Returns the parts of a Debian package.
    fn parts(package: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut archive = ar::Archive::new(package);
        let mut parts = Vec::new();
        while let Some(entry) = archive.next_entry() {
            let mut entry = entry.expect("a part");
            let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            parts.push((name, bytes));
        }
        parts
    }

    /// Returns the entries of a compressed archive: path, mode, user id, text.
    fn entries(archive: &[u8]) -> Vec<(String, u32, u64, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(archive));
        let entries = archive.entries().expect("entries").map(|entry| {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let (mode, uid) = (entry.header().mode(), entry.header().uid());
            assert_eq!(entry.header().mtime().expect("a time"), 1_700_000_000, "{path}");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            (path, mode.expect("a mode"), uid.expect("an owner"), text)
        });
        entries.collect()
    }

    #[test]
    fn a_debian_package_contains_its_files_with_modes() {
        let contents = contents();
        let package = deb::package(&release(Some(2)), &contents).expect("a package");
        assert_eq!(package, deb::package(&release(Some(2)), &contents).expect("the same bytes"));
        let parts = parts(&package);
        let names: Vec<_> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
        let control = entries(&parts[1].1);
        assert!(control[0].3.contains("\nVersion: 9.8.7-2\n"), "{}", control[0].3);
        let filled =
            !["@VERSION@", "@SIZE@", "@MAINTAINER@"].iter().any(|it| control[0].3.contains(it));
        assert!(filled, "{}", control[0].3);
        for (script, mode, ..) in &control[2..] {
            assert_eq!(*mode, 0o755, "{script}");
        }
        let data = entries(&parts[2].1);
        assert!(data.iter().all(|(.., uid, _)| *uid == 0), "every file belongs to root");
        let find = |wanted: &str| data.iter().find(|(path, ..)| path == wanted);
        for (path, mode) in [
            ("usr/bin/trainguard", 0o755),
            ("usr/lib/systemd/system/trainguard.service", 0o644),
            ("usr/share/man/man1/trainguard.1.gz", 0o644),
            ("usr/share/trainguard/policies/mxnet.yaml", 0o644),
            ("usr/share/trainguard/schema/policy.schema.json", 0o644),
            ("usr/share/trainguard/monitoring/alerts.yaml", 0o644),
            ("usr/share/trainguard/monitoring/dashboard.json", 0o644),
            ("usr/share/doc/trainguard/copyright", 0o644),
            ("usr/share/doc/trainguard/third-party.txt", 0o644),
            ("usr/share/doc/trainguard/changelog.Debian.gz", 0o644),
            ("usr/share/lintian/overrides/trainguard", 0o644),
            ("usr/share/bash-completion/completions/trainguard", 0o644),
        ] {
            assert_eq!(find(path).map(|(_, mode, ..)| *mode), Some(mode), "{path}");
        }
        // A manifest in /etc/trainguard would be in force.
        let etc = data.iter().filter(|(path, ..)| path.starts_with("etc/"));
        let etc: Vec<_> = etc.map(|(path, ..)| path.trim_end_matches('/')).collect();
        assert_eq!(etc, ["etc", "etc/trainguard"].as_slice());
        // Each directory occurs once, before the files in it.
        for (at, (path, ..)) in data.iter().enumerate() {
            let parent =
                Path::new(path).parent().map(|parent| parent.to_string_lossy().into_owned());
            let parent = parent.filter(|parent| !parent.is_empty());
            let before = |parent: &String| {
                data[..at].iter().filter(|(path, ..)| path.trim_end_matches('/') == parent).count()
            };
            assert!(parent.as_ref().is_none_or(|parent| before(parent) == 1), "{path}");
        }
    }

    /// Pages for contributors, and files that the package has at another path.
    const NOT_BESIDE_THE_DOCUMENTS: [&str; 7] = [
        "STYLE.md",
        "action.yml",
        "fuzz/README.md",
        "guard-user/packaging",
        "policies/README.md",
        "policies/mxnet.test.yaml",
        "tests/README.md",
    ];

    #[test]
    fn links_between_packaged_documents_work() {
        let contents = contents();
        let files = contents.files.iter();
        let documents: Vec<_> = files
            .filter_map(|file| Some((file.path.strip_prefix(contents::DOC)?.get(1..)?, file)))
            .collect();
        let mut checked = 0;
        let is_markdown = |path: &str| Path::new(path).extension().is_some_and(|it| it == "md");
        for (path, file) in documents.iter().filter(|(path, _)| is_markdown(path)) {
            let text = String::from_utf8_lossy(&file.bytes);
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for target in targets.filter(|it| !it.is_empty() && !it.contains(':')) {
                let mut resolved = PathBuf::from(path);
                resolved.pop();
                for component in Path::new(target).components() {
                    match component {
                        Component::ParentDir => assert!(resolved.pop(), "{path}: {target}"),
                        component => resolved.push(component),
                    }
                }
                let resolved = resolved.to_string_lossy();
                let known = documents.iter().any(|(path, _)| *path == resolved)
                    || NOT_BESIDE_THE_DOCUMENTS.contains(&resolved.as_ref());
                assert!(known, "{path} links to {target}");
                checked += 1;
            }
        }
        assert!(checked > 100, "{checked} links");
    }

    #[test]
    fn an_rpm_contains_the_same_files() {
        let contents = contents();
        let bytes = rpm::package(&release(None), &contents).expect("a package");
        assert!(bytes == rpm::package(&release(None), &contents).expect("a package"), "same bytes");
        let package = ::rpm::Package::parse(&mut &bytes[..]).expect("a package");
        let metadata = &package.metadata;
        let facts = [metadata.get_name(), metadata.get_version(), metadata.get_release()];
        assert_eq!(
            facts.map(|fact| fact.expect("a fact").to_owned()),
            ["trainguard", "9.8.7", "1"]
        );
        let paths = metadata.get_file_paths().expect("paths");
        for file in &contents.files {
            let path = Path::new("/").join(&file.path);
            assert!(paths.contains(&path), "{}", path.display());
        }
        for (directory, ours) in [
            ("/etc/trainguard", true),
            ("/usr/share/trainguard", true),
            ("/usr/share/doc/trainguard/examples", true),
            ("/usr/share/man/man1", false),
            ("/usr/bin", false),
        ] {
            assert_eq!(paths.contains(&directory.into()), ours, "{directory}");
        }
    }

    #[test]
    fn no_script_enables_or_starts_anything() {
        let root = sh::root().join("guard-user/packaging");
        for script in
            ["deb/postinst", "deb/prerm", "deb/postrm", "rpm/post", "rpm/preun", "rpm/postun"]
        {
            let path = root.join(script);
            let text = fs::read_to_string(&path).expect("a script");
            for word in ["enable", "start ", "reload-or-restart", "restart "] {
                assert!(!text.contains(&format!("systemctl {word}")), "{script}: {word}");
            }
            sh::run(Command::new("sh").arg("-n").arg(&path)).expect("a shell understands it");
        }
    }
}
