//! Tries kernel features, including loading the guard itself.

use std::path::PathBuf;

use super::facts::{Attempt, KernelFeatures, Refusal};
use crate::{
    bpf::{
        feature_probe,
        loader::{Generation, Maps, Options},
    },
    embedded_object::kernel_object,
    policy::{
        self, Bundle, Placement,
        compiled::{CompiledPolicy, Tunnels},
    },
};

fn tried(attempt: feature_probe::Attempt) -> Attempt {
    attempt.map_err(Refusal::from)
}

/// Tries all features. The guard is loaded with this policy, or with one that uses every feature.
pub(super) fn try_kernel(policy: Option<&CompiledPolicy>) -> KernelFeatures {
    let feature_probe::KernelFeatures {
        maps,
        xdp,
        frags,
        compiled,
        has_namespace,
        native,
        generic,
        switch,
    } = feature_probe::KernelFeatures::probe();
    KernelFeatures {
        maps: maps.into_iter().map(|(kind, made)| (kind, tried(made))).collect(),
        xdp: tried(xdp),
        frags: tried(frags),
        compiled: compiled.into(),
        has_namespace,
        native: tried(native),
        generic: tried(generic),
        switch: tried(switch),
        guard: kernel_object().map(|_| load_guard(policy)),
    }
}

/// Loads the guard as the daemon does, with this policy or one that uses every feature, on private
/// maps.
fn load_guard(policy: Option<&CompiledPolicy>) -> Attempt {
    let sample;
    let policy = if let Some(policy) = policy {
        policy
    } else {
        sample = sample_policy().map_err(|message| Refusal { errno: None, message })?;
        &sample
    };
    let options = Options::new(Maps::Private, [0; 2], true);
    Generation::load(policy, &options).map(drop).map_err(Refusal::from)
}

/// Returns a policy that uses everything that costs the verifier instructions.
fn sample_policy() -> Result<CompiledPolicy, String> {
    const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: doctor
interfaces: [doctor0]
nodes:
  - { name: a, addresses: [192.0.2.1, \"2001:db8::1\"], roles: [member] }
  - { name: b, addresses: [192.0.2.2, \"2001:db8::2\"], roles: [member] }
policies: [policy.yaml]
";
    const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: doctor
services:
  - name: all
    roles: [member]
    ports: [tcp/9091, udp/9091]
    match: all
    allow: { roles: [member] }
    mode: enforce
    limits:
      perSource:
        newConnections: { rate: 200/s, burst: 1000 }
        packets: { rate: 200k/s, burst: 400k }
        bytes: { rate: 1GB/s, burst: 64MB }
      total:
        newConnections: { rate: 2000/s, burst: 4000 }
";
    let manifest = PathBuf::from("cluster.yaml");
    let texts = [(manifest.clone(), MANIFEST), (PathBuf::from("policy.yaml"), POLICY)];
    let bundle = Bundle::new(manifest.clone(), texts);
    let loaded = policy::load(&manifest, &bundle).map_err(|error| error.to_string())?;
    let node = loaded.cluster.nodes.first().ok_or("no node")?;
    let mut policy =
        policy::compile(&loaded, node, &Placement::default()).map_err(|error| error.to_string())?;
    let mut tunnels = Tunnels::default();
    for kind in ["ipip", "sit", "gre"] {
        tunnels.add(kind, None)?;
    }
    policy.set_tunnels(&tunnels);
    Ok(policy)
}
