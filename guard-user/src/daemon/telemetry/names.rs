//! The names by which packets are reported.

use std::collections::BTreeMap;

use guard_common::Addr;

use crate::{api::status::ServiceStatus, netlink::devices::Device};

/// By what names packets are told.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    pub(crate) services: &'a BTreeMap<u8, ServiceStatus>,
    /// Of addresses, sorted by them.
    pub(crate) nodes: &'a [(Addr, String)],
    pub(crate) devices: &'a [Device],
}
