//! Half-open IKE SAs that we answer for: found by the request that made them (RFC 7296 §2.1), and counted by where that
//! came from, so that one source has only its share.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::api::IkeSaId;
use super::channel::RequestDigest;

/// A request and its source.
pub(super) type InitKey = (SocketAddr, RequestDigest);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    by_request: HashMap<InitKey, IkeSaId>,
    by_source: HashMap<IpAddr, usize>,
}

impl HalfOpen {
    pub(super) fn len(&self) -> usize {
        self.by_request.len()
    }

    pub(super) fn get(&self, key: &InitKey) -> Option<IkeSaId> {
        self.by_request.get(key).copied()
    }

    /// How many have come from there.
    pub(super) fn from(&self, addr: IpAddr) -> usize {
        self.by_source.get(&source(addr)).copied().unwrap_or_default()
    }

    pub(super) fn insert(&mut self, key: InitKey, id: IkeSaId) {
        if self.by_request.insert(key, id).is_none() {
            *self.by_source.entry(source(key.0.ip())).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, key: &InitKey) {
        if self.by_request.remove(key).is_none() {
            return;
        }
        let source = source(key.0.ip());
        if let Some(count) = self.by_source.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

/// Whoever has an IPv6 address has all of its /64.
pub(super) fn source(addr: IpAddr) -> IpAddr {
    match addr {
        IpAddr::V4(_) => addr,
        IpAddr::V6(addr) => Ipv6Addr::from(u128::from(addr) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let mut half_open = HalfOpen::default();
        let key = |addr: &str, digest| (addr.parse().unwrap(), [digest; 32]);
        let keys = [
            key("192.0.2.1:500", 1),
            key("192.0.2.1:501", 2),
            key("[2001:db8::1]:500", 3),
            key("[2001:db8::ffff:1]:500", 4),
            key("[2001:db8:0:1::1]:500", 5),
        ];
        for (number, key) in keys.iter().enumerate() {
            half_open.insert(*key, IkeSaId(number as u64));
            half_open.insert(*key, IkeSaId(number as u64));
        }
        let from = |half_open: &HalfOpen, addr: &str| half_open.from(addr.parse().unwrap());
        assert_eq!(
            (half_open.len(), from(&half_open, "192.0.2.1"), from(&half_open, "192.0.2.2")),
            (5, 2, 0)
        );
        assert_eq!((from(&half_open, "2001:db8::9"), from(&half_open, "2001:db8:0:1::9")), (2, 1));
        for key in keys {
            half_open.remove(&key);
            half_open.remove(&key);
        }
        assert_eq!((half_open.len(), half_open.by_source.len()), (0, 0));
    }
}
