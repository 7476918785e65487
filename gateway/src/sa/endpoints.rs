//! Small values that workers read while the control plane changes them, packed into words: the outer addresses of
//! an SA, and what an event tells.
//!
//! [`MovableEndpoints`] keeps two copies, of which one is current. A writer changes the other and then switches. A
//! reader takes the current one and looks whether it still was when it had finished; it starts again only if a
//! whole change ended and another began meanwhile, so that it never waits for a writer that was interrupted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_ipsec::{Encapsulation, TunnelEndpoints};

use crate::sync::{AtomicU64, Ordering, fence};
use crate::wire::{FlowKey, protocol};

/// Words of a packed value.
pub(crate) const WORDS: usize = 5;
/// A packed value.
pub(crate) type Packed = [u64; WORDS];

/// The outer addresses of an SA, read by many, changed by one at a time.
#[derive(Debug)]
pub struct MovableEndpoints {
    /// Counts the changes; its lowest bit says which copy is current.
    version: AtomicU64,
    copies: [[AtomicU64; WORDS]; 2],
}

impl MovableEndpoints {
    /// With these addresses.
    pub fn new(endpoints: TunnelEndpoints) -> Self {
        let copy = || pack_endpoints(endpoints).map(AtomicU64::new);
        Self { version: AtomicU64::new(0), copies: [copy(), copy()] }
    }

    /// The current addresses.
    pub fn get(&self) -> TunnelEndpoints {
        unpack_endpoints(self.packed())
    }

    /// The way that packets come now.
    #[inline]
    pub(crate) fn way(&self) -> Way {
        let [head, local_high, local_low, ..] = self.packed();
        Way { local: u128::from(local_high) << 64 | u128::from(local_low), head }
    }

    /// Whether a packet, if `udp` one in UDP, comes that way.
    pub fn admit(&self, arrival: &FlowKey, udp: bool) -> bool {
        self.way().admits(arrival, udp)
    }

    #[inline]
    fn packed(&self) -> Packed {
        let [even, odd] = &self.copies;
        loop {
            // Acquire: the copy that this version made current is complete.
            let version = self.version.load(Ordering::Acquire);
            let copy = if version & 1 == 0 { even } else { odd };
            let packed = std::array::from_fn(|i| copy.get(i).map_or(0, |word| word.load(Ordering::Relaxed)));
            // If a word came from a later change of this copy, this fence meets that change's fence, and the
            // version that preceded it is visible below.
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return packed;
            }
        }
    }

    /// Replaces them. Callers take turns (they hold the installer's lock); if they did not, a reader might see
    /// a mixture of what they wrote.
    pub(crate) fn set(&self, endpoints: TunnelEndpoints) {
        let [even, odd] = &self.copies;
        let version = self.version.load(Ordering::Relaxed);
        let copy = if version & 1 == 0 { odd } else { even };
        // The last switch is visible to whoever sees one of the words below.
        fence(Ordering::Release);
        for (word, value) in copy.iter().zip(pack_endpoints(endpoints)) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: the words come before the switch.
        self.version.store(version.wrapping_add(1), Ordering::Release);
    }
}

/// What of an SA's outer addresses every packet that comes in is compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    local: u128,
    head: u64,
}

impl Way {
    /// Whether a packet, if `udp` one in UDP, came the way that the SA is used: to the same address of
    /// ours, and in UDP where a NAT makes that necessary. UDP is taken on every SA (RFC 7296 §2.23; RFC 9329 §7.1 where TCP
    /// is given up for it); what came in a TCP stream on those that have one alone.
    #[inline(always)]
    pub(crate) fn admits(&self, arrival: &FlowKey, udp: bool) -> bool {
        let same_family = (self.head & V6 != 0) == arrival.is_ipv6();
        let tcp = arrival.protocol() == protocol::TCP;
        let wanted = if tcp { self.head & TCP != 0 } else { self.head & UDP == 0 };
        same_family & (self.local == arrival.dst_bits()) & (udp | wanted)
    }
}

/// Set in the first word if the addresses are IPv6.
const V6: u64 = 1 << 63;
/// Set in the first word if there are ports: of UDP, or of TCP.
const UDP: u64 = 1 << 62;
/// Set as well if they are of TCP.
const TCP: u64 = 1 << 61;

pub(crate) fn pack_endpoints(endpoints: TunnelEndpoints) -> Packed {
    let head = match endpoints.encapsulation {
        Encapsulation::None => 0,
        Encapsulation::Udp { local_port, remote_port } => {
            UDP | u64::from(local_port) << 16 | u64::from(remote_port)
        }
        Encapsulation::Tcp { local_port, remote_port } => {
            UDP | TCP | u64::from(local_port) << 16 | u64::from(remote_port)
        }
    };
    pack(endpoints.local, endpoints.remote, head)
}

pub(crate) fn unpack_endpoints(packed: Packed) -> TunnelEndpoints {
    let (local, remote, head) = unpack(packed);
    let (local_port, remote_port) = ((head >> 16) as u16, head as u16);
    let encapsulation = match (head & UDP != 0, head & TCP != 0) {
        (false, _) => Encapsulation::None,
        (true, false) => Encapsulation::Udp { local_port, remote_port },
        (true, true) => Encapsulation::Tcp { local_port, remote_port },
    };
    TunnelEndpoints { local, remote, encapsulation }
}

/// Both addresses are of one family; if they are not, the first's decides.
fn pack(a: IpAddr, b: IpAddr, head: u64) -> Packed {
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()),
        IpAddr::V6(addr) => addr.to_bits(),
    };
    let family = if a.is_ipv6() { V6 } else { 0 };
    let (a, b) = (bits(a), bits(b));
    [head | family, (a >> 64) as u64, a as u64, (b >> 64) as u64, b as u64]
}

fn unpack([head, a_high, a_low, b_high, b_low]: Packed) -> (IpAddr, IpAddr, u64) {
    let addr = |high: u64, low: u64| {
        if head & V6 == 0 {
            IpAddr::V4(Ipv4Addr::from_bits(low as u32))
        } else {
            IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)))
        }
    };
    (addr(a_high, a_low), addr(b_high, b_low), head)
}

#[cfg(test)]
#[cfg(not(loom))]
pub(crate) mod testing {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_endpoints() -> impl Strategy<Value = TunnelEndpoints> {
        let addrs = prop_oneof![
            any::<[Ipv4Addr; 2]>().prop_map(|pair| pair.map(IpAddr::V4)),
            any::<[Ipv6Addr; 2]>().prop_map(|pair| pair.map(IpAddr::V6)),
        ];
        let encapsulations = prop_oneof![
            Just(Encapsulation::None),
            any::<(u16, u16)>()
                .prop_map(|(local_port, remote_port)| Encapsulation::Udp { local_port, remote_port }),
            any::<(u16, u16)>()
                .prop_map(|(local_port, remote_port)| Encapsulation::Tcp { local_port, remote_port }),
        ];
        (addrs, encapsulations).prop_map(|([local, remote], encapsulation)| TunnelEndpoints {
            local,
            remote,
            encapsulation,
        })
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use proptest::prelude::*;

    use super::testing::any_endpoints;
    use super::*;

    proptest! {
        #[test]
        fn endpoints_survive_packing(endpoints in any_endpoints(), next in any_endpoints()) {
            let cell = MovableEndpoints::new(endpoints);
            prop_assert_eq!(cell.get(), endpoints);
            cell.set(next);
            prop_assert_eq!(cell.get(), next);
            cell.set(endpoints);
            prop_assert_eq!(cell.get(), endpoints);
        }
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    fn endpoints(n: u8) -> TunnelEndpoints {
        let addr = |host| IpAddr::V4(Ipv4Addr::new(n, n, n, host));
        let ports = u16::from(n);
        TunnelEndpoints {
            local: addr(1),
            remote: addr(2),
            encapsulation: Encapsulation::Udp { local_port: ports, remote_port: ports },
        }
    }

    #[test]
    fn a_reader_never_sees_a_mixture_of_two_moves() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let cell = Arc::new(MovableEndpoints::new(endpoints(1)));
            let worker = {
                let cell = Arc::clone(&cell);
                loom::thread::spawn(move || cell.get())
            };
            cell.set(endpoints(2));
            cell.set(endpoints(3));
            let seen = worker.join().unwrap();
            assert!((1..=3).any(|n| seen == endpoints(n)), "{seen:?}");
            assert_eq!(cell.get(), endpoints(3));
        });
    }
}
