//! Hashes that identify a policy: by its effect on a node, and by the files it is loaded from.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use sha2::{Digest as _, Sha256};

use crate::compiled::CompiledPolicy;
use guard_common::{
    port_table::{self, Transport},
    tables::{Limits, Source},
};

/// Returns SHA-256 of the tables, with services numbered by rank: independent of slots, of the order of
/// lists, and of how the policy is written.
pub(crate) fn hash(compiled: &CompiledPolicy) -> [u8; 32] {
    let mut hash = Sha256::new();
    let text = |hash: &mut Sha256, text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    let number = |hash: &mut Sha256, number: u64| hash.update(number.to_be_bytes());
    text(&mut hash, "trainguard policy 1");
    text(&mut hash, &compiled.node);
    number(&mut hash, compiled.services.len() as u64);
    for service in &compiled.services {
        text(&mut hash, &service.label);
        number(&mut hash, service.service.flags);
        for limits in [&service.service.per_source, &service.service.total] {
            let Limits { new_connections, packets, bytes } = limits;
            for limit in [new_connections, packets, bytes] {
                number(&mut hash, limit.rate);
                number(&mut hash, limit.unit);
                number(&mut hash, limit.depth);
            }
        }
    }
    for transport in Transport::ALL {
        let first = port_table::port_index(transport, 0);
        let last = port_table::port_index(transport, u16::MAX);
        hash.update(compiled.ports.get(first..=last).unwrap_or_default());
    }
    number(&mut hash, compiled.sources4.len() as u64);
    for (prefix, source) in &compiled.sources4 {
        hash.update(prefix.addr);
        hash_source(&mut hash, prefix.len, source);
    }
    number(&mut hash, compiled.sources6.len() as u64);
    for (prefix, source) in &compiled.sources6 {
        hash.update(prefix.addr);
        hash_source(&mut hash, prefix.len, source);
    }
    hash.finalize().into()
}

fn hash_source(hash: &mut Sha256, len: u8, source: &Source) {
    hash.update([len]);
    hash.update(source.services.to_be_bytes());
    hash.update(source.flags.to_be_bytes());
}

/// Returns SHA-256 of a set of files, in any order. Each file counts by its path relative to the
/// directory of the manifest, and the manifest by an empty path, so nodes that keep the same files in
/// different directories have the same hash.
pub fn of_files<'a>(
    manifest: &Path,
    files: impl IntoIterator<Item = (&'a Path, &'a [u8])>,
) -> [u8; 32] {
    let directory = manifest.parent().unwrap_or(Path::new(""));
    let name = |path: &'a Path| match path.strip_prefix(directory) {
        _ if path == manifest => Path::new(""),
        Ok(relative) => relative,
        Err(_) => path,
    };
    let files: BTreeMap<&Path, &[u8]> =
        files.into_iter().map(|(path, bytes)| (name(path), bytes)).collect();
    let mut hash = Sha256::new();
    hash.update(b"trainguard files 1");
    for (path, bytes) in files {
        for part in [path.as_os_str().as_encoded_bytes(), bytes] {
            // The length separates a part from the next one.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}

/// Formats bytes as lower-case hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(manifest: &str, files: &[(&str, &str)]) -> [u8; 32] {
        let files = files.iter().map(|(path, text)| (Path::new(*path), text.as_bytes()));
        of_files(Path::new(manifest), files)
    }

    #[test]
    fn the_same_files_elsewhere_have_the_same_hash() {
        let here = hash("/etc/tg/c.yaml", &[("/etc/tg/c.yaml", "a"), ("/etc/tg/p/x.yaml", "b")]);
        assert_eq!(hash("d.yaml", &[("p/x.yaml", "b"), ("d.yaml", "a")]), here);
        for other in [
            hash("c.yaml", &[("c.yaml", "a"), ("p/x.yaml", "c")]),
            hash("c.yaml", &[("c.yaml", "b"), ("p/x.yaml", "a")]),
            hash("c.yaml", &[("c.yaml", "a"), ("p/y.yaml", "b")]),
            hash("c.yaml", &[("c.yaml", "a")]),
            hash("c.yaml", &[("c.yaml", "ap/x.yaml"), ("b", "")]),
            hash("/etc/tg/c.yaml", &[("/etc/tg/c.yaml", "a"), ("/p/x.yaml", "b")]),
        ] {
            assert_ne!(other, here);
        }
    }
}
