//! The ports that a service claims.

use crate::{
    compile::ports::{PortClaim, claims},
    syntax::{diagnostic::At, document::ServiceDoc, scalars::PortRange},
};

/// Returns the claims of a service from its document.
pub(crate) fn claims_of(service: &ServiceDoc) -> Vec<PortClaim> {
    let values = |ports: &[At<PortRange>]| ports.iter().map(|p| p.value).collect::<Vec<_>>();
    claims(&values(&service.ports), &values(&service.except))
}
