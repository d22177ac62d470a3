//! The programs and rules to measure.

use std::{os::fd::AsFd as _, path::Path};

use anyhow::{Result, ensure};
use guard_common::{Action, Reason};
use guard_tests::{
    bench::{
        guard::Guard,
        xdp_filter::{self, XdpFilter},
    },
    wire::{
        flood::Family,
        lab::End,
        policy::{self, Addresses, Service},
        programs::Simple,
    },
};
use guard_user::bpf::link::Link;

use crate::nft::Nft;

/// How to install other projects' programs.
const NOT_INSTALLED: &str = "not installed (cargo xtask bench --install)";

/// The cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Drops without reading the packet.
    DropAll,
    /// Parses the headers, then drops.
    ParseOnly,
    /// Parses the headers, then computes in registers for as long as the guard takes, then drops.
    ParseBusy,
    /// The guard with 1,000 listed sources.
    Guard,
    /// The guard with 100,000 listed sources.
    GuardMany,
    /// xdp-filter from xdp-tools.
    XdpFilter,
    /// nftables at the ingress of the device.
    Nft,
}

impl Kind {
    /// All cases, in the order of the table.
    pub(crate) const ALL: [Self; 7] = [
        Self::DropAll,
        Self::ParseOnly,
        Self::ParseBusy,
        Self::Guard,
        Self::GuardMany,
        Self::XdpFilter,
        Self::Nft,
    ];

    /// Returns the name of the case in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DropAll => "drop_all",
            Self::ParseOnly => "parse_only",
            Self::ParseBusy => "parse_busy",
            Self::Guard => "guard, 1,000 listed,",
            Self::GuardMany => "guard, 100,000 listed,",
            Self::XdpFilter => "xdp-filter, 1,000 listed,",
            Self::Nft => "nftables ingress, 1,000 listed,",
        }
    }

    /// Reports whether other cases are compared with this one.
    pub(crate) fn is_base(self) -> bool {
        matches!(self, Self::ParseOnly | Self::Guard | Self::XdpFilter)
    }
}

/// A case, loaded.
pub(crate) struct Subject {
    /// The case.
    pub(crate) kind: Kind,
    loaded: Option<Loaded>,
    link: Option<Link>,
}

enum Loaded {
    Simple(Simple, &'static str),
    Guard(Box<Guard>),
    XdpFilter(Box<XdpFilter>),
    Nft(Nft),
}

impl Subject {
    /// Loads the program or rules of a case; a case whose software is not installed stays empty.
    pub(crate) fn load(kind: Kind, listed: &Addresses, object: &Path, end: &End) -> Result<Self> {
        let simple = |name| Ok(Loaded::Simple(Simple::load(object, 0, &[name])?, name));
        let loaded = match kind {
            Kind::DropAll => Some(simple("drop_all")),
            Kind::ParseOnly => Some(simple("parse_only")),
            Kind::ParseBusy => Some(simple("parse_busy")),
            Kind::Guard | Kind::GuardMany => {
                let policy =
                    policy::compile(&end.device, listed, Service { matching: "all", more: "" });
                Some(end.guard(&policy).map(|guard| Loaded::Guard(Box::new(guard))))
            }
            Kind::XdpFilter => xdp_filter::find().ok().map(|object| {
                let Addresses { v4, v6 } = listed;
                let filter = XdpFilter::load(&object, policy::PORT, v4, v6)?;
                Ok(Loaded::XdpFilter(Box::new(filter)))
            }),
            Kind::Nft => Nft::new(&end.device, listed).map(|nft| Ok(Loaded::Nft(nft))),
        };
        Ok(Self { kind, loaded: loaded.transpose()?, link: None })
    }

    /// Returns why the case cannot be measured, or `None`.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        self.loaded.is_none().then_some(NOT_INSTALLED)
    }

    /// Attaches the program, or loads the rules.
    pub(crate) fn attach(&mut self, end: &End) -> Result<()> {
        let program = match &self.loaded {
            Some(Loaded::Simple(simple, name)) => simple.program(name)?,
            Some(Loaded::Guard(guard)) => guard.program().fd().as_fd(),
            Some(Loaded::XdpFilter(filter)) => filter.program().fd().as_fd(),
            Some(Loaded::Nft(nft)) => return nft.attach(end),
            None => return Ok(()),
        };
        self.link = Some(end.attach(program)?);
        Ok(())
    }

    /// Detaches the program, or removes the rules.
    pub(crate) fn detach(&mut self, end: &End) -> Result<()> {
        if let Some(Loaded::Nft(nft)) = &self.loaded {
            nft.detach(end)?;
        }
        if let Some(link) = self.link.take() {
            link.detach()?;
        }
        Ok(())
    }

    /// Returns the number of frames that the program has counted as dropped for the reason of the case;
    /// `None` if it has no counters.
    pub(crate) fn dropped(&mut self, end: &End, family: Family) -> Result<Option<u64>> {
        match &mut self.loaded {
            Some(Loaded::Guard(guard)) => {
                guard.drain()?;
                let counts = guard.counts()?;
                let wanted = (Action::Drop, Reason::NotAllowed);
                ensure!(
                    counts.keys().all(|key| *key == wanted),
                    "verdicts other than drops: {counts:?}"
                );
                Ok(Some(counts.get(&wanted).copied().unwrap_or(0)))
            }
            Some(Loaded::XdpFilter(filter)) => filter.dropped().map(Some),
            Some(Loaded::Nft(nft)) => nft.dropped(end, family).map(Some),
            Some(Loaded::Simple(..)) | None => Ok(None),
        }
    }
}
