//! What runs on any machine, without privileges: the decision on the host against its laws and the
//! corpus, and files that ship against what they are about.

mod adversarial_catalogue;
mod bucket_properties;
pub(crate) mod captures;
pub(crate) mod dashboards;
mod properties;
pub(crate) mod scenarios;
pub(crate) mod tries;
