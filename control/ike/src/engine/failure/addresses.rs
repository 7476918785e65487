//! Inner addresses that cannot be had.

use super::{About, Fix, Place, Reason, Verdict, join, toml_key, toml_list};

impl About {
    /// `pools`, whole, were all that `identity` could have had an address from.
    pub(in crate::engine) fn pool_exhausted(&self, pools: &[String], identity: &str) -> Verdict {
        let first = pools.first().map(String::as_str).unwrap_or_default();
        self.fail(
            Reason::PoolExhausted,
            format!("every address of {} is in use, so `{identity}` gets none", names(pools)),
        )
        .fix(Fix::here(pool(first), "addrs", "\"<a larger range>\""))
        .fix(Fix::here(self.section(), "dpd_delay", "\"30s\""))
        .fix(Fix::step(Place::Here, "see whose they are: portcullis pools --leases"))
    }

    pub(in crate::engine) fn no_pool_of_family(&self, pools: &[String]) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PoolFamily,
            format!("{peer} asks for an address of a family of which {} has none", names(pools)),
        )
        .fix(Fix::here(
            self.section(),
            "pools",
            toml_list(pools.iter().map(String::as_str).chain(["<a pool of the other family>"])),
        ))
        .fix(Fix::step(Place::Peer, "have it ask for an address of the family that there is"))
    }

    pub(in crate::engine) fn address_not_asked_for(&self) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        self.fail(
            Reason::AddressNotAskedFor,
            format!(
                "{peer} asks for no inner address, and {section} is for peers that get one from its pools"
            ),
        )
        .fix(Fix::step(Place::Peer, "have it ask for one; strongSwan: vips = 0.0.0.0"))
        .fix(Fix::here(
            format!("{section}.children.<child>"),
            "remote_ts",
            toml_list(["<the peer's networks, if it is a site>"]),
        ))
    }

    /// `refused`: it said INTERNAL_ADDRESS_FAILURE.
    pub(in crate::engine) fn no_address_assigned(&self, refused: bool) -> Verdict {
        let peer = self.peer();
        let sentence = match refused {
            true => format!(
                "{peer} has no inner address for us (INTERNAL_ADDRESS_FAILURE): its pool is full, or of another family"
            ),
            false => format!("we asked {peer} for an inner address and it gave none"),
        };
        self.fail(Reason::NoAddressAssigned, sentence)
            .fix(Fix::step(Place::Peer, "give it a pool with free addresses; strongSwan: pools = NAME"))
            .fix(Fix::here(self.section(), "vips", "[]"))
    }
}

fn pool(name: &str) -> String {
    format!("pools.{}", toml_key(name))
}

fn names(pools: &[String]) -> String {
    join(pools.iter().map(|name| pool(name)))
}
