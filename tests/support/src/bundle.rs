//! Manifests and policies: the small cluster that most tests of documents use, and builders for others.

use std::{
    fmt::{self, Display, Write as _},
    net::Ipv4Addr,
};

/// A scheduler, four workers and an office network, in both families. The policy file is `p.yaml`.
pub const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: demo
interfaces: [eth0]
nodes:
  - { name: sched, addresses: [10.0.0.1, \"fd00::1\"], roles: [scheduler] }
  - { name: \"worker-[0-3]\", addresses: [\"10.0.1.[0-3]\", \"fd00::1:[0-3]\"], roles: [worker] }
networks:
  office: [10.9.0.0/24, \"fd00:9::/64\"]
policies: [p.yaml]
";

/// A policy for [`MANIFEST`] in which lint finds nothing.
pub const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: p
description: a text
services:
  - name: s
    roles: [scheduler]
    ports: [tcp/9091]
    match: all
    allow:
      roles: [scheduler, worker]
      networks: [office]
    mode: enforce
    limits:
      perSource:
        newConnections: { rate: 200/s, burst: 1000 }
";

/// A minimal policy: role `a` may reach one port of role `a`.
pub const LEAST_POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: p
services:
  - name: s
    roles: [a]
    ports: [tcp/80]
    match: all
    allow: { roles: [a] }
    mode: enforce
";

/// Builder of a manifest; [`Display`] writes its text.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: String,
    interfaces: String,
    nodes: String,
    networks: String,
    policies: String,
}

/// Creates a manifest without nodes, for `eth0`, with the policy `p.yaml`.
pub fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        interfaces: "eth0".to_owned(),
        nodes: String::new(),
        networks: String::new(),
        policies: "p.yaml".to_owned(),
    }
}

impl Cluster {
    /// Sets the interfaces, separated by commas.
    #[must_use]
    pub fn interfaces(mut self, interfaces: &str) -> Self {
        interfaces.clone_into(&mut self.interfaces);
        self
    }

    /// Sets the policies, separated by commas.
    #[must_use]
    pub fn policies(mut self, policies: &str) -> Self {
        policies.clone_into(&mut self.policies);
        self
    }

    /// Adds a node, or a range of them. Addresses and roles are separated by commas.
    #[must_use]
    pub fn node(mut self, name: &str, addresses: &str, roles: &str) -> Self {
        let addresses: Vec<String> = addresses.split(", ").map(quoted).collect();
        let (name, addresses) = (quoted(name), addresses.join(", "));
        let node = format!("  - {{ name: {name}, addresses: [{addresses}], roles: [{roles}] }}\n");
        self.nodes.push_str(&node);
        self
    }

    /// Adds a network; `value` is written as it is.
    #[must_use]
    pub fn network(mut self, name: &str, value: &str) -> Self {
        let network = format!("  {name}: {value}\n");
        self.networks.push_str(&network);
        self
    }
}

impl Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, interfaces, nodes, networks, policies } = self;
        write!(
            f,
            "apiVersion: trainguard/v1\nkind: Cluster\nname: {name}\ninterfaces: [{interfaces}]\n\
             nodes:\n{nodes}"
        )?;
        if !networks.is_empty() {
            write!(f, "networks:\n{networks}")?;
        }
        writeln!(f, "policies: [{policies}]")
    }
}

/// Quotes host lists and IPv6 addresses, which are not plain scalars in a flow sequence.
fn quoted(scalar: &str) -> String {
    if scalar.contains(['[', ':', '*']) { format!("\"{scalar}\"") } else { scalar.to_owned() }
}

/// Returns a policy with these services, in the format of [`service`].
pub fn policy(name: &str, services: impl IntoIterator<Item = impl Display>) -> String {
    let mut text = format!("apiVersion: trainguard/v1\nkind: Policy\nname: {name}\nservices:\n");
    for service in services {
        text += &service.to_string();
    }
    text
}

/// Returns an enforced service that guards ports of roles. `allow` is the text between the braces of
/// that field; further fields can be appended to the result.
pub fn service(name: &str, roles: &str, ports: &str, allow: &str) -> String {
    format!(
        "  - name: {name}\n    roles: [{roles}]\n    ports: [{ports}]\n    match: all\n    \
         allow: {{ {allow} }}\n    mode: enforce\n"
    )
}

/// Returns a policy with `count` services for role `a`, each with a port of its own. `allow` returns the
/// text between the braces of that field for service `n`; `more` contains further fields.
pub fn services(count: usize, allow: impl Fn(usize) -> String, more: &str) -> String {
    let services = (0..count).map(|nth| {
        let port = format!("tcp/{}", nth + 1);
        service(&format!("s{nth}"), "a", &port, &allow(nth)) + more
    });
    policy("p", services)
}

/// Returns addresses from 11.0.0.0 on, one per line.
pub fn hosts(numbers: impl Iterator<Item = u32>) -> String {
    let first = u32::from(Ipv4Addr::new(11, 0, 0, 0));
    numbers.fold(String::new(), |mut text, number| {
        writeln!(text, "{}", Ipv4Addr::from(first + number)).expect("a string takes it");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builders_produce_the_constants() {
        let built = cluster("demo")
            .node("sched", "10.0.0.1, fd00::1", "scheduler")
            .node("worker-[0-3]", "10.0.1.[0-3], fd00::1:[0-3]", "worker")
            .network("office", "[10.9.0.0/24, \"fd00:9::/64\"]");
        assert_eq!(built.to_string(), MANIFEST);
        assert_eq!(policy("p", [service("s", "a", "tcp/80", "roles: [a]")]), LEAST_POLICY);
    }
}
