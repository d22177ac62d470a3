//! Manifests and policies: the small cluster that most tests of documents use, and the parts that
//! others are put together from.

use std::{
    fmt::{self, Display, Write as _},
    net::Ipv4Addr,
};

/// A scheduler, four workers and an office network, in both families. Its policy is `p.yaml`.
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

/// The least that is a policy: role `a` may reach one port of role `a`.
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

/// A manifest that is put together. Its text is what [`Display`] gives.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: String,
    interfaces: String,
    nodes: String,
    networks: String,
    policies: String,
}

/// A manifest without nodes, for `eth0`, with the policy `p.yaml`.
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
    /// Other interfaces, separated by commas.
    #[must_use]
    pub fn interfaces(mut self, interfaces: &str) -> Self {
        interfaces.clone_into(&mut self.interfaces);
        self
    }

    /// Other policies, separated by commas.
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

    /// Adds a network, whose value is written as it is.
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

/// Host lists and IPv6 addresses are no plain scalars in a flow sequence.
fn quoted(scalar: &str) -> String {
    if scalar.contains(['[', ':', '*']) { format!("\"{scalar}\"") } else { scalar.to_owned() }
}

/// A policy of these services, each as [`service`] writes it.
pub fn policy(name: &str, services: impl IntoIterator<Item = impl Display>) -> String {
    let mut text = format!("apiVersion: trainguard/v1\nkind: Policy\nname: {name}\nservices:\n");
    for service in services {
        text += &service.to_string();
    }
    text
}

/// A service that guards ports of roles and is enforced. `allow` is what stands between the braces
/// of that field; what is appended to the text are further fields.
pub fn service(name: &str, roles: &str, ports: &str, allow: &str) -> String {
    format!(
        "  - name: {name}\n    roles: [{roles}]\n    ports: [{ports}]\n    match: all\n    \
         allow: {{ {allow} }}\n    mode: enforce\n"
    )
}

/// A policy of as many services for role `a`, each with a port of its own. `allow` gives what stands between
/// the braces of that field of the nth; `more` are further fields.
pub fn services(count: usize, allow: impl Fn(usize) -> String, more: &str) -> String {
    let services = (0..count).map(|nth| {
        let port = format!("tcp/{}", nth + 1);
        service(&format!("s{nth}"), "a", &port, &allow(nth)) + more
    });
    policy("p", services)
}

/// Hosts from 11.0.0.0 on, a line each.
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
    fn the_parts_give_the_whole() {
        let built = cluster("demo")
            .node("sched", "10.0.0.1, fd00::1", "scheduler")
            .node("worker-[0-3]", "10.0.1.[0-3], fd00::1:[0-3]", "worker")
            .network("office", "[10.9.0.0/24, \"fd00:9::/64\"]");
        assert_eq!(built.to_string(), MANIFEST);
        assert_eq!(policy("p", [service("s", "a", "tcp/80", "roles: [a]")]), LEAST_POLICY);
    }
}
