//! Signed policies: a list of the files with their SHA-256, as `sha256sum` writes it, and a `minisign`
//! signature of that list, with a serial number in the trusted comment.
//!
//! ```sh
//! sha256sum cluster.yaml policies/*.yaml > cluster.yaml.sums
//! minisign -S -m cluster.yaml.sums -t 'trainguard serial=42'
//! ```
//!
//! The list must contain exactly the files that a load reads; test files may be listed, too. So a
//! policy that was signed and that a pattern of the manifest no longer matches is an error, not a
//! removal. The daemon rejects serial numbers lower than the last one, so that a replaced policy cannot
//! be restored by copying its files and its old signature.
//!
//! Decision: `docs/decisions/0024-signature-covers-a-list.md`.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use minisign_verify::{Error, PublicKey, Signature};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    files::{Bundle, Files},
    load::{self, Loader},
};
use crate::{
    compile::hash::hexadecimal,
    syntax::{
        diagnostic::{Diagnostic, Location, Span},
        rules,
        text::shown,
    },
    test_suite,
};

/// Maximum number of files named in an error.
const MAX_NAMED: usize = 5;

/// The list of the files and its signature.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The list: a line of `sha256sum` for each file, with the path relative to the directory of the
    /// manifest.
    pub sums: String,
    /// The text of a minisign signature file.
    pub signature: String,
}

/// Returns the paths of the list and the signature of a manifest: its own path plus `.sums` and
/// `.sums.minisig`.
pub fn paths(manifest: &Path) -> [PathBuf; 2] {
    [".sums", ".sums.minisig"].map(|ending| {
        let mut path = manifest.as_os_str().to_owned();
        path.push(ending);
        PathBuf::from(path)
    })
}

/// Returns the message for a manifest without a list or a signature.
pub fn missing(manifest: &Path) -> String {
    let [sums, signature] = paths(manifest);
    format!("`{}` and `{}` must both exist", sums.display(), signature.display())
}

impl Signed {
    /// Reads the list and the signature of a manifest; none unless both exist.
    ///
    /// # Errors
    /// One of them cannot be read or is not UTF-8.
    pub fn read(manifest: &Path, files: &dyn Files) -> Result<Option<Self>, String> {
        let text = |path: &Path| match files.read(path) {
            Ok(bytes) => String::from_utf8(bytes)
                .map(Some)
                .map_err(|_not_utf8| format!("`{}` is not UTF-8 text", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
        };
        let [sums, signature] = paths(manifest);
        let both = text(&sums)?.zip(text(&signature)?);
        Ok(both.map(|(sums, signature)| Self { sums, signature }))
    }
}

/// The minisign public key with which policies must be signed.
pub struct Key(PublicKey);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").finish_non_exhaustive()
    }
}

impl Key {
    /// Parses the text of a public key file.
    ///
    /// # Errors
    /// The text is not a minisign public key.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let key = PublicKey::decode(&String::from_utf8_lossy(text))
            .map_err(|error| format!("the policy key is not a minisign public key: {error}"))?;
        Ok(Self(key))
    }

    /// Checks that a policy is exactly what the holder of the key has signed. Does not check the serial
    /// number or the expiry.
    ///
    /// # Errors
    /// The signature, its trusted comment, the list or a file does not match. The message says which,
    /// and how to fix it.
    pub fn verify(&self, signed: &Signed, bundle: &Bundle) -> Result<Verified, String> {
        let [_, place] = paths(&bundle.manifest);
        let place = place.display();
        let signature = Signature::decode(&signed.signature)
            .map_err(|error| format!("`{place}` is not a minisign signature: {error}"))?;
        self.0.verify(signed.sums.as_bytes(), &signature, false).map_err(|error| match error {
            Error::UnexpectedKeyId => format!(
                "`{place}` was made with another key than the policy key: sign with the secret key \
                 of the policy key, or change the policy key"
            ),
            Error::UnexpectedAlgorithm => {
                format!("`{place}` has the legacy format: sign with minisign 0.10 or newer")
            }
            _ => format!(
                "`{place}` does not match the list: the list was changed after it was signed, or \
                 the signature is forged"
            ),
        })?;
        let (serial, expires) = comment(signature.trusted_comment())?;
        covers(&signed.sums, bundle)?;
        let sums = hexadecimal(&Sha256::digest(signed.sums.as_bytes()));
        Ok(Verified { serial, sums, expires })
    }
}

/// The contents of a valid signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Serial number; must increase with each policy.
    pub serial: u64,
    /// SHA-256 of the list, in hexadecimal.
    pub sums: String,
    /// Start of the day, in UTC, on which the signature expires. An expired policy stays valid; the
    /// expiry is only reported.
    pub expires: Option<SystemTime>,
}

impl Verified {
    /// Reports whether the signature has expired.
    pub fn has_expired(&self) -> bool {
        self.expires.is_some_and(|expires| expires < SystemTime::now())
    }
}

/// Parses the trusted comment: `trainguard serial=42`, optionally with `expires=2027-01-31`.
fn comment(text: &str) -> Result<(u64, Option<SystemTime>), String> {
    let wrong = || {
        format!(
            "the signed comment is `{}`, expected `trainguard serial=NUMBER` and, if wanted, \
             `expires=YYYY-MM-DD`: minisign -S -t 'trainguard serial=42'",
            shown(text)
        )
    };
    let mut words = text.split_ascii_whitespace();
    if words.next() != Some("trainguard") {
        return Err(wrong());
    }
    let (mut serial, mut expires) = (None, None);
    for word in words {
        match word.split_once('=') {
            Some(("serial", number)) if serial.is_none() => {
                let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                serial = Some(number.parse().ok().filter(|_| is_number).ok_or_else(wrong)?);
            }
            Some(("expires", day)) if expires.is_none() => {
                let end = humantime::parse_rfc3339_weak(&format!("{day} 00:00:00"));
                expires = Some(end.map_err(|_no_day| wrong())?);
            }
            _ => return Err(wrong()),
        }
    }
    Ok((serial.ok_or_else(wrong)?, expires))
}

/// Checks that a list names exactly the files of a bundle, with the right hashes.
fn covers(sums: &str, bundle: &Bundle) -> Result<(), String> {
    let mut listed = BTreeMap::new();
    for (number, line) in (1..).zip(sums.lines()) {
        let wrong = || {
            format!(
                "line {number} of the list, `{}`: expected a SHA-256 and a path, as sha256sum \
                 writes them",
                shown(line)
            )
        };
        let (sum, path) = line.split_once(' ').ok_or_else(wrong)?;
        let path = path.strip_prefix([' ', '*']).ok_or_else(wrong)?;
        let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_sum || path.is_empty() {
            return Err(wrong());
        }
        let path = path.strip_prefix("./").unwrap_or(path);
        if listed.insert(Path::new(path).to_owned(), sum.to_ascii_lowercase()).is_some() {
            return Err(format!("the list names `{}` twice", shown(path)));
        }
    }
    let (mut missing, mut other) = (Vec::new(), Vec::new());
    for (path, text) in bundle.relative() {
        match listed.remove(path) {
            None => missing.push(path.to_owned()),
            Some(sum) if sum != hexadecimal(&Sha256::digest(text.as_bytes())) => {
                other.push(path.to_owned());
            }
            Some(_) => {}
        }
    }
    // A load reads no test files, but a list made with `policies/*.yaml` contains those beside the
    // policies.
    let unread = listed.into_keys().filter(|path| !test_suite::is_test_file(path));
    for (what, paths) in [
        ("is not in the signed list", missing),
        ("differs from the file that was signed", other),
        ("is in the signed list, but the manifest does not lead to it", unread.collect()),
    ] {
        let names = paths.iter().take(MAX_NAMED).map(|path| shown(&path.to_string_lossy()));
        let names: Vec<String> = names.collect();
        if let Some(more) = paths.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
            return Err(format!("`{}` and {more} more: {what}", names.join("`, `")));
        }
        if !names.is_empty() {
            return Err(format!("`{}`: {what}", names.join("`, `")));
        }
    }
    Ok(())
}

impl Loader<'_> {
    /// Checks that a manifest and all files it names are signed with a key. Everything that a daemon
    /// with that key would reject is an error, except for a serial number that is too low, which only
    /// the daemon knows.
    pub fn check_signature(&mut self, manifest: &Path, files: &dyn Files, key: &Key) {
        // A manifest that does not load has errors of its own.
        let Ok(loaded) = load::load(manifest, files) else { return };
        let Some((file, _)) = self.sources.open(manifest, None) else { return };
        let place = Location { file, span: Span::default() };
        let signed = match Signed::read(manifest, files) {
            Ok(Some(signed)) => key.verify(&signed, &loaded.bundle),
            Ok(None) => Err(format!(
                "{}: list the files with sha256sum, and sign the list with minisign",
                missing(manifest)
            )),
            Err(why) => Err(why),
        };
        self.sources.report.push(match signed {
            Err(why) => Diagnostic::error(rules::SIGNATURE, place, format!("not signed: {why}")),
            Ok(Verified { expires: Some(expires), .. }) if expires < SystemTime::now() => {
                let day = humantime::format_rfc3339_seconds(expires).to_string();
                let day = day.split('T').next().unwrap_or_default();
                Diagnostic::warning(
                    rules::SIGNATURE,
                    place,
                    format!("its signature has expired ({day}); a daemon accepts it nevertheless"),
                )
                .help("sign it again, with a higher serial number and a later date")
            }
            Ok(_) => return,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use minisign::KeyPair;

    use super::*;

    const MANIFEST: &str = "/etc/tg/c.yaml";

    fn bundle() -> Bundle {
        Bundle::new(
            MANIFEST,
            [
                ("/etc/tg/c.yaml", "manifest"),
                ("/etc/tg/p/x.yaml", "x"),
                ("/etc/tg/../lists/l.txt", "list"),
            ],
        )
    }

    fn sums() -> String {
        let line = |path: &str, text: &str| {
            format!("{}  {path}\n", hexadecimal(&Sha256::digest(text.as_bytes())))
        };
        [line("c.yaml", "manifest"), line("./p/x.yaml", "x"), line("../lists/l.txt", "list")]
            .concat()
    }

    fn key() -> KeyPair {
        KeyPair::generate_unencrypted_keypair().expect("a key")
    }

    fn public(key: &KeyPair) -> String {
        key.pk.to_box().expect("a key").to_string()
    }

    fn sign(key: &KeyPair, sums: &str, comment: &str) -> Signed {
        let signature = minisign::sign(None, &key.sk, sums.as_bytes(), Some(comment), None);
        let signature = signature.expect("a signature").to_string();
        Signed { sums: sums.to_owned(), signature }
    }

    fn verify(key: &str, signed: &Signed, bundle: &Bundle) -> Result<Verified, String> {
        Key::parse(key.as_bytes())?.verify(signed, bundle)
    }

    fn why(result: Result<Verified, String>) -> String {
        result.expect_err("the signature is refused")
    }

    #[test]
    fn a_valid_signature_is_accepted() {
        let key = key();
        let signed = sign(&key, &sums(), "trainguard serial=42 expires=2027-01-31");
        let verified = verify(&public(&key), &signed, &bundle()).expect("a valid signature");
        assert_eq!(verified.serial, 42);
        // As the shell expands `policies/*.yaml`.
        let more = sums() + &format!("{}  p/x.test.yaml\n", "0".repeat(64));
        let signed = sign(&key, &more, "trainguard serial=43");
        assert_eq!(verify(&public(&key), &signed, &bundle()).map(|it| it.serial), Ok(43));
        let expires = verified.expires.expect("a day");
        assert_eq!(humantime::format_rfc3339(expires).to_string(), "2027-01-31T00:00:00Z");
    }

    /// Case 129.
    #[test]
    fn a_mismatch_with_the_signed_list_is_refused_and_named() {
        let (key, other) = (key(), key());
        let good = sign(&key, &sums(), "trainguard serial=1");
        let bundle = bundle();
        let with = |path: &str, text: &str| {
            Bundle::new(
                MANIFEST,
                [("/etc/tg/c.yaml", "manifest"), ("/etc/tg/../lists/l.txt", "list"), (path, text)],
            )
        };
        let check = |signed: &Signed, bundle: &Bundle| why(verify(&public(&key), signed, bundle));
        for (what, message, part) in [
            ("another key", why(verify(&public(&other), &good, &bundle)), "another key"),
            (
                "no key",
                why(verify("nonsense\nnonsense\n", &good, &bundle)),
                "not a minisign public key",
            ),
            (
                "other bytes",
                check(&good, &with("/etc/tg/p/x.yaml", "y")),
                "`p/x.yaml`: differs from",
            ),
            ("another file", check(&good, &with("/etc/tg/p/z.yaml", "x")), "`p/z.yaml`: is not in"),
            (
                "a missing file",
                check(
                    &good,
                    &Bundle::new(
                        MANIFEST,
                        [("/etc/tg/c.yaml", "manifest"), ("/etc/tg/../lists/l.txt", "list")],
                    ),
                ),
                "`p/x.yaml`: is in the signed list, but",
            ),
            (
                "a changed list",
                check(
                    &Signed { sums: good.sums.replace("c.yaml", "d.yaml"), ..good.clone() },
                    &bundle,
                ),
                "does not match the list",
            ),
            (
                "a changed comment",
                check(
                    &Signed {
                        signature: good.signature.replace("serial=1", "serial=9"),
                        ..good.clone()
                    },
                    &bundle,
                ),
                "forged",
            ),
            (
                "no signature",
                check(&Signed { signature: "x".to_owned(), ..good.clone() }, &bundle),
                "not a minisign signature",
            ),
            ("no serial", check(&sign(&key, &sums(), "trainguard"), &bundle), "expected"),
            ("no word", check(&sign(&key, &sums(), "serial=1"), &bundle), "trainguard serial="),
            ("a sign", check(&sign(&key, &sums(), "trainguard serial=+1"), &bundle), "serial="),
            (
                "twice",
                check(&sign(&key, &sums().repeat(2), "trainguard serial=1"), &bundle),
                "twice",
            ),
            ("no list", check(&sign(&key, "x\n", "trainguard serial=1"), &bundle), "line 1"),
            (
                "an empty one",
                check(&sign(&key, "", "trainguard serial=1"), &bundle),
                "is not in the signed list",
            ),
        ] {
            assert!(message.contains(part), "{what}: {message}");
        }
    }

    #[test]
    fn only_dates_are_accepted_as_expiry() {
        let now = SystemTime::now();
        let (serial, expires) = comment("trainguard expires=1999-12-31 serial=3").expect("good");
        assert_eq!(serial, 3);
        assert!(expires.is_some_and(|expires| {
            now.duration_since(expires).is_ok_and(|age| age > Duration::from_hours(24 * 365))
        }));
        for bad in ["trainguard serial=1 expires=soon", "trainguard serial=1 serial=2", ""] {
            assert!(comment(bad).is_err(), "{bad}");
        }
    }
}
