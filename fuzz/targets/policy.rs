//! YAML: a manifest and a policy of arbitrary bytes, loaded, checked and compiled as `lint` and the daemon do.
//! The input is split at the first zero byte.
#![no_main]

use guard_user::policy::{self, Bundle, Placement};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let mut text = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let bundle = Bundle::new("cluster.yaml", [("cluster.yaml", text()), ("policy.yaml", text())]);
    let Ok(loaded) = policy::load(bundle.manifest.as_path(), &bundle) else { return };
    if loaded.report.has_errors() {
        return;
    }
    for node in &loaded.cluster.nodes {
        // An error is a valid result: the policy may be too large for the tables.
        let _ = policy::compile(&loaded, node, &Placement::default());
    }
});
