//! Checks that the roles and networks that policies use are defined in the manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use crate::syntax::{
    diagnostic::{At, Diagnostic, FileId, Location, Report, Severity},
    document::{ClusterDoc, PolicyDoc},
    rules::{self, Code},
    walk::nearest,
};

/// Names of one kind: those that the manifest defines, and those that policies use.
struct Names<'d> {
    what: &'static str,
    code: Code,
    defined: BTreeMap<&'d str, Location>,
    /// Whether `defined` is complete.
    known: bool,
    used: BTreeSet<&'d str>,
}

impl<'d> Names<'d> {
    fn use_all(&mut self, out: &mut Report, names: &'d [At<String>]) {
        for name in names {
            let new = self.used.insert(&name.value);
            if !self.known || self.defined.contains_key(name.value.as_str()) {
                continue;
            }
            let message = format!("{} `{}`", self.what, name.value);
            let finding = Diagnostic::error(self.code, name.place, message);
            let near = nearest(&name.value, self.defined.keys().copied());
            out.push(match near {
                Some(near) => finding.help(format!("did you mean `{near}`?")),
                None if new && !self.defined.is_empty() => {
                    let known: Vec<&str> = self.defined.keys().copied().take(20).collect();
                    finding.help(format!("known: {}", known.join(", ")))
                }
                None => finding,
            });
        }
    }

    fn report_unused(&self, out: &mut Report, what: &str) {
        for (name, place) in &self.defined {
            if !self.used.contains(name) {
                let message = format!("{what} `{name}`");
                out.push(Diagnostic::new(Severity::Info, rules::UNUSED, *place, message));
            }
        }
    }
}

pub(crate) fn check(
    out: &mut Report,
    doc: &ClusterDoc,
    policies: &[(FileId, Rc<PolicyDoc>)],
    whole: bool,
) {
    let mut roles = Names {
        what: "no node has the role",
        code: rules::UNKNOWN_ROLE,
        defined: BTreeMap::new(),
        known: doc.roles_known,
        used: BTreeSet::new(),
    };
    for role in doc.nodes.iter().flat_map(|entry| &entry.roles) {
        roles.defined.entry(&role.value).or_insert(role.place);
    }
    let mut networks = Names {
        what: "the manifest defines no network",
        code: rules::UNKNOWN_NETWORK,
        defined: BTreeMap::new(),
        known: doc.networks_known,
        used: BTreeSet::new(),
    };
    for (name, _) in &doc.networks {
        networks.defined.entry(&name.value).or_insert(name.place);
    }
    for service in policies.iter().flat_map(|(_, policy)| &policy.services) {
        roles.use_all(out, &service.roles);
        roles.use_all(out, &service.allow.roles);
        networks.use_all(out, &service.allow.networks);
    }
    if whole {
        roles.report_unused(out, "no service runs on or admits the role");
        networks.report_unused(out, "no service admits the network");
    }
}
