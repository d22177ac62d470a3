//! The network devices of a namespace: their state, tunnel ports, and attached programs.

use std::io;

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkMessage,
    packet_route::{
        RouteNetlinkMessage,
        link::{
            InfoBareUdp, InfoData, InfoGeneve, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
            LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
        },
    },
    sys::SocketAddr,
};

use super::topology::Stacked;
use crate::{attach_mode::DeviceMode, sys, system_error::SystemError};

/// UDP ports of GTP (`GTP0_PORT`, `GTP1U_PORT`, include/net/gtp.h). A GTP device always uses both.
const GTP_PORTS: [u16; 2] = [3386, 2152];

/// Devices that their kernel module creates in every namespace. They decapsulate packets only after
/// they were configured.
const FALLBACK_DEVICES: [&str; 9] =
    ["tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"];

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Index of the device.
    pub index: u32,
    /// Name of the device.
    pub name: String,
    /// Whether the device is up.
    pub up: bool,
    /// Maximum length of a packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Whether its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// Kind of the device as `ip -d link` shows it; none for hardware and loopback.
    pub kind: Option<String>,
    /// UDP ports on which the device receives packets to decapsulate.
    pub ports: Vec<u16>,
    /// The XDP program on it.
    pub xdp: Option<Attached>,
    /// Ids of its tc programs (TCX, ingress), in the order in which they run.
    pub tc: Vec<u32>,
    /// The devices that it is stacked on or enslaved to.
    pub stacked: Stacked,
}

#[cfg(test)]
impl Device {
    /// Returns an Ethernet device that is up and has no programs, ports or related devices.
    pub(crate) fn ethernet(index: u32, name: &str, kind: Option<&str>) -> Self {
        Self {
            index,
            name: name.to_owned(),
            up: true,
            mtu: 1500,
            ethernet: true,
            kind: kind.map(str::to_owned),
            ports: Vec::new(),
            xdp: None,
            tc: Vec::new(),
            stacked: Stacked::default(),
        }
    }
}

/// An XDP program on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Id of the program.
    pub program_id: u32,
    /// How the program is attached.
    pub mode: DeviceMode,
}

/// Reports whether a program in native mode gets each frame in one buffer at this MTU, whatever the
/// buffer size of the driver is.
pub fn has_one_buffer(mtu: u32) -> bool {
    mtu <= 1500
}

impl Device {
    /// Reports whether the device may decapsulate packets of any source. Devices count before they
    /// are up, so that none comes up unnoticed; the devices in `FALLBACK_DEVICES` count only when
    /// they are up.
    pub fn may_unpack(&self) -> bool {
        self.up || !FALLBACK_DEVICES.contains(&self.name.as_str())
    }

    /// Returns how a program runs on the device; none if it does not.
    pub fn mode_of(&self, program_id: u32) -> Option<DeviceMode> {
        match self.xdp {
            Some(attached) if attached.program_id == program_id => Some(attached.mode),
            _ => self.tc.contains(&program_id).then_some(DeviceMode::Tcx),
        }
    }
}

type Changes =
    futures_util::stream::BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// A connection to the routing socket of the kernel (rtnetlink) in this network namespace.
#[expect(missing_debug_implementations, reason = "streams have none")]
pub struct Netlink {
    handle: Handle,
    changes: Changes,
}

impl Netlink {
    /// Opens a connection. Must be called in a tokio runtime, which drives the connection.
    pub fn open() -> Result<Self, SystemError> {
        let failed = |error: io::Error| SystemError::of("opening a netlink socket", error);
        let (connection, handle, changes) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { handle, changes: changes.boxed() })
    }

    /// Lists all devices of this namespace.
    pub async fn devices(&self) -> Result<Vec<Device>, SystemError> {
        let links = self.handle.link().get().execute();
        let links: Vec<LinkMessage> = links
            .try_collect()
            .await
            .map_err(|error| SystemError::of("listing the network interfaces", error))?;
        Ok(links.into_iter().map(device).collect())
    }

    /// Waits until a device appears, disappears or changes. A burst of changes counts as one.
    pub async fn changed(&mut self) {
        if self.changes.next().await.is_none() {
            // The connection is closed. The caller also polls the devices with a timer.
            std::future::pending::<()>().await;
        }
        while let Some(Some(_)) = futures_util::FutureExt::now_or_never(self.changes.next()) {}
    }
}

/// Lists all devices of the network namespace of this thread, for callers without a tokio runtime.
pub fn devices_now() -> Result<Vec<Device>, SystemError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| SystemError::of("opening a netlink socket", error))?;
    runtime.block_on(async { Netlink::open()?.devices().await })
}

fn device(message: LinkMessage) -> Device {
    let mut device = Device {
        index: message.header.index,
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: u32::MAX,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        kind: None,
        ports: Vec::new(),
        xdp: None,
        // Empty also if the kernel has no TCX.
        tc: sys::tc_programs(message.header.index).unwrap_or_default(),
        stacked: Stacked::of(&message),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Mtu(mtu) => device.mtu = mtu,
            LinkAttribute::Xdp(facts) => device.xdp = attached(&facts),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => device.kind = Some(kind.to_string()),
                        LinkInfo::Data(data) => device.ports.extend(ports(&data)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if device.kind.as_deref() == Some("gtp") {
        device.ports.extend(GTP_PORTS);
    }
    device
}

fn ports(data: &InfoData) -> Vec<u16> {
    match data {
        InfoData::Vxlan(facts) => facts
            .iter()
            .filter_map(|fact| if let InfoVxlan::Port(port) = fact { Some(*port) } else { None })
            .collect(),
        InfoData::Geneve(facts) => facts
            .iter()
            .filter_map(|fact| if let InfoGeneve::Port(port) = fact { Some(*port) } else { None })
            .collect(),
        InfoData::BareUdp(facts) => facts
            .iter()
            .filter_map(|fact| if let InfoBareUdp::Port(port) = fact { Some(*port) } else { None })
            .collect(),
        _ => Vec::new(),
    }
}

fn attached(facts: &[LinkXdp]) -> Option<Attached> {
    let mode = facts.iter().find_map(|fact| match fact {
        LinkXdp::Attached(XdpAttached::Driver) => Some(DeviceMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(DeviceMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(DeviceMode::Offloaded),
        LinkXdp::Attached(XdpAttached::Multiple) => Some(DeviceMode::Several),
        _ => None,
    })?;
    let program_id = facts.iter().find_map(|fact| match fact {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => Some(*id),
        _ => None,
    })?;
    Some(Attached { program_id, mode })
}
