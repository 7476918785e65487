//! VLAN devices on ports. Workers send and receive for them on the port, with tags.

use std::collections::HashMap;

use super::{PortIndex, PortInfo};
use crate::wire::VlanTags;

/// A VLAN device. It has a place as ports have, behind theirs, and the side of its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// The device.
    pub device: PortInfo,
    /// The port that it is on.
    pub on: PortIndex,
    /// The tags that its frames have there.
    pub tags: VlanTags,
}

/// Those that there are. A place stays that of the same tags on the same port, so that frames which wait meanwhile are not
/// sent into another VLAN.
#[derive(Debug, Default)]
pub(super) struct Vlans {
    /// By place; ports have the first places.
    by_index: Vec<Option<Vlan>>,
    by_ifindex: HashMap<u32, PortIndex>,
    by_tags: HashMap<(PortIndex, VlanTags), PortIndex>,
}

impl Vlans {
    /// Behind so many ports, which may be such devices themselves: then they have sockets of their own to send by.
    pub(super) fn new(ports: usize, devices: Vec<Vlan>) -> Self {
        let mut vlans = Self::default();
        for vlan in devices {
            let index = vlan.device.index;
            vlans.by_tags.insert((vlan.on, vlan.tags), index);
            let at = usize::from(index.0);
            if at < ports {
                continue;
            }
            vlans.by_ifindex.insert(vlan.device.ifindex, index);
            if at >= vlans.by_index.len() {
                vlans.by_index.resize(at + 1, None);
            }
            if let Some(place) = vlans.by_index.get_mut(at) {
                *place = Some(vlan);
            }
        }
        vlans
    }

    #[inline]
    pub(super) fn get(&self, index: PortIndex) -> Option<&Vlan> {
        self.by_index.get(usize::from(index.0))?.as_ref()
    }

    pub(super) fn of_interface(&self, ifindex: u32) -> Option<&Vlan> {
        self.by_ifindex.get(&ifindex).and_then(|index| self.get(*index))
    }

    pub(super) fn tagged(&self, on: PortIndex, tags: VlanTags) -> Option<PortIndex> {
        self.by_tags.get(&(on, tags)).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Vlan> {
        self.by_index.iter().flatten()
    }
}
