//! nftables at the ingress of the device: the usual way to do the guard's task.

use std::{fmt::Display, process::Command};

use anyhow::{Context as _, Result};
use guard_tests::wire::{
    flood::Family,
    lab::{End, run, run_with},
    policy::{Addresses, PORT},
};
use serde_json::Value;

const TABLE: &str = "bench";

/// The ruleset, as input for `nft`.
#[derive(Debug)]
pub(crate) struct Nft(String);

impl Nft {
    /// Builds the rules for a device. Returns `None` if `nft` is not installed.
    pub(crate) fn new(device: &str, listed: &Addresses) -> Option<Self> {
        Command::new("nft").arg("--version").output().ok()?;
        let set = |name, kind, addresses| {
            format!("  set {name} {{ type {kind}; elements = {{ {addresses} }} }}\n")
        };
        let sets = [
            set("listed4", "ipv4_addr", joined(&listed.v4)),
            set("listed6", "ipv6_addr", joined(&listed.v6)),
        ];
        let chain = format!(
            "  chain ingress {{\n    type filter hook ingress device \"{device}\" priority 0;\n\
             \x20   tcp dport {PORT} ip saddr != @listed4 counter drop comment \"IPv4\"\n\
             \x20   tcp dport {PORT} ip6 saddr != @listed6 counter drop comment \"IPv6\"\n  }}\n"
        );
        Some(Self(format!("table netdev {TABLE} {{\n{}{chain}}}\n", sets.concat())))
    }

    /// Loads the rules.
    pub(crate) fn attach(&self, end: &End) -> Result<()> {
        run_with(end.command("nft").args(["-f", "-"]), &self.0).map(drop)
    }

    /// Removes the rules.
    #[expect(clippy::unused_self, reason = "rules can be removed only after they were set")]
    pub(crate) fn detach(&self, end: &End) -> Result<()> {
        run(end.command("nft").args(["delete", "table", "netdev", TABLE])).map(drop)
    }

    /// Returns the number of frames that the rule of a family has dropped.
    #[expect(clippy::unused_self, reason = "rules can be read only after they were set")]
    pub(crate) fn dropped(&self, end: &End, family: Family) -> Result<u64> {
        let text =
            run(end.command("nft").args(["-j", "list", "chain", "netdev", TABLE, "ingress"]))?;
        let listing: Value = serde_json::from_str(&text)?;
        let objects =
            listing["nftables"].as_array().context("the output of nft has no `nftables`")?;
        let rule = objects.iter().map(|object| &object["rule"]);
        let rule = rule.into_iter().find(|rule| rule["comment"] == family.to_string());
        let statements = rule
            .and_then(|rule| rule["expr"].as_array())
            .context("the output of nft lacks the rule")?;
        let mut counts = statements.iter().filter_map(|part| part["counter"]["packets"].as_u64());
        counts.next().context("the rule has no counter")
    }
}

fn joined<T: Display>(addresses: &[T]) -> String {
    addresses.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
