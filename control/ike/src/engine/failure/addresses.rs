//! Inner addresses: pools that have none, peers that ask for none.

use super::{About, Fix, Place, Reason, Verdict, join, toml_list};

impl About {
    pub(in crate::engine) fn pool_exhausted(&self, pools: &[String], identity: &str) -> Verdict {
        let first = pools.first().map_or_else(String::new, |pool| format!("pools.{pool}"));
        self.fail(
            Reason::PoolExhausted,
            format!("every address of {} is in use, so that `{identity}` gets none", named(pools)),
        )
        .fix(Fix::here(first, "addrs", "\"<a larger prefix>\""))
        .fix(Fix::here(self.section(), "pools", more(pools)))
        .fix(Fix::step(Place::Here, "see who has them: portcullis pools"))
    }

    pub(in crate::engine) fn no_pool_of_family(&self, pools: &[String]) -> Verdict {
        self.fail(
            Reason::PoolFamily,
            format!("{} asks for an address of a family that none of {} has", self.peer(), named(pools)),
        )
        .fix(Fix::here(self.section(), "pools", more(pools)))
        .fix(Fix::strongswan(
            "",
            "vips",
            "<0.0.0.0 for IPv4, :: for IPv6: only what our pools have>",
        ))
    }

    pub(in crate::engine) fn address_not_asked_for(&self) -> Verdict {
        self.fail(
            Reason::AddressNotAskedFor,
            format!(
                "{} asks for no inner address, but {}.pools is there to give it one, and its children are for nobody else",
                self.peer(),
                self.section()
            ),
        )
        .fix(Fix::strongswan("", "vips", "0.0.0.0"))
        .fix(Fix::libreswan("leftmodecfgclient", "yes"))
        .fix(Fix::here(
            format!("{}.children.<child>", self.section()),
            "remote_ts",
            toml_list(["<the peer's networks>"]),
        ))
    }

    pub(in crate::engine) fn no_address_assigned(&self, refused: bool) -> Verdict {
        let why = match refused {
            true => {
                "has no inner address for us (INTERNAL_ADDRESS_FAILURE): its pool is full, or it has none"
            }
            false => "gave us no inner address though we asked for one",
        };
        self.fail(Reason::NoAddressAssigned, format!("{} {why}", self.peer()))
            .fix(Fix::strongswan("", "pools", "<a pool with free addresses of that family>"))
            .fix(Fix::libreswan("rightaddresspool", "<first>-<last>"))
            .fix(Fix::here(self.section(), "vips", "[]"))
    }
}

fn named(pools: &[String]) -> String {
    join(pools.iter().map(|pool| format!("pools.{pool}")))
}

/// The pools with room for another.
fn more(pools: &[String]) -> String {
    toml_list(pools.iter().map(String::as_str).chain(["<another pool>"]))
}
