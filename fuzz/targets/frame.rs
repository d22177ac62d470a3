//! Frames: the decision about arbitrary bytes, by a policy with every kind of service. The first two bytes are
//! the number of bytes that the capture cut off.
#![no_main]

use std::sync::OnceLock;

use guard_common::{NoTrace, Verdict, evaluate, packet::Frame, stack::Offline};
use guard_user::policy::{self, Bundle, Placement, compiled::CompiledPolicy, limiter::HostLimiter};
use libfuzzer_sys::fuzz_target;

const MANIFEST: &str = include_str!("../../tests/worlds/cluster.yaml");
const POLICY: &str = include_str!("../../tests/worlds/mixed.yaml");

fn compiled() -> CompiledPolicy {
    let texts = [("cluster.yaml", MANIFEST), ("policy.yaml", POLICY)];
    let bundle = Bundle::new("cluster.yaml", texts);
    let loaded = policy::load(bundle.manifest.as_path(), &bundle).expect("the world's policy");
    let node = loaded.cluster.nodes.first().expect("a node");
    policy::compile(&loaded, node, &Placement::default()).expect("it fits")
}

fuzz_target!(|data: &[u8]| {
    static POLICY: OnceLock<CompiledPolicy> = OnceLock::new();
    let tables = POLICY.get_or_init(compiled).host();
    let Some((more, bytes)) = data.split_first_chunk::<2>() else { return };
    let Ok(len) = u32::try_from(bytes.len()) else { return };
    let frame = Frame::cut(bytes, len + u32::from(u16::from_le_bytes(*more)));
    let limiter = HostLimiter::new([1, 2]);
    let verdict = evaluate(&frame, &tables, &Offline::default(), &limiter, &mut NoTrace);
    assert_eq!(Verdict::unpack(verdict.pack()), Some(verdict));
});
