//! Where peers may find this host, for whoever wants to know when that changes.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use super::{Dataplane, Role, addresses_of};
use crate::route::RouteTable;

/// Told the addresses of [`Dataplane::outside_addresses`].
type Tell = Box<dyn Fn(Vec<IpAddr>) + Send + Sync>;

/// Who is told, once there is somebody.
#[derive(Clone, Default)]
pub(super) struct Paths(Arc<OnceLock<Tell>>);

impl Paths {
    /// Links, addresses or routes are others than before.
    pub(super) fn changed(&self, routes: &RouteTable) {
        if let Some(tell) = self.0.get() {
            tell(outside_addresses(routes));
        }
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Paths").field(&self.0.get().is_some()).finish()
    }
}

impl Dataplane {
    /// The addresses of the outside interfaces that are up, and of VLAN devices on them, as of now, but those that mean something on their own link
    /// alone.
    pub fn outside_addresses(&self) -> Vec<IpAddr> {
        outside_addresses(&self.routes.load())
    }

    /// Has `tell` called with [`Dataplane::outside_addresses`] whenever links, addresses or routes have changed, by the
    /// mirror's thread, which it must not keep waiting. Only the first call counts.
    pub fn watch_paths(&self, tell: Tell) {
        let _ = self.paths.0.set(tell);
    }
}

fn outside_addresses(routes: &RouteTable) -> Vec<IpAddr> {
    let outside = routes.devices().filter(|port| port.role == Role::Outside && port.up);
    let routable = |addr: &IpAddr| match addr {
        IpAddr::V4(addr) => !addr.is_link_local() && !addr.is_loopback(),
        IpAddr::V6(addr) => !addr.is_unicast_link_local() && !addr.is_loopback(),
    };
    outside.flat_map(addresses_of).filter(routable).collect()
}
