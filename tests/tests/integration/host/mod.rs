//! Tests that run on any machine, without privileges: properties of the decision on the host, the
//! corpus, and checks of shipped files against the code.

mod adversarial_catalogue;
mod bucket_properties;
pub(crate) mod captures;
pub(crate) mod dashboards;
mod properties;
pub(crate) mod scenarios;
pub(crate) mod tries;
