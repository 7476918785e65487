//! Failures about inner addresses.

use super::{About, join};
use crate::engine::api::Failure;

impl About {
    pub(in crate::engine) fn pool_exhausted(&self, pools: &[String], identity: &str) -> Failure {
        let pools = join(pools.iter().map(|pool| format!("pools.{pool}")));
        self.fail(
            "POOL_EXHAUSTED",
            format!(
                "every address of {pools} is in use, so that `{identity}` gets none; enlarge `addrs` there, or add a pool to {}.pools (see `portcullis pools`)",
                self.line()
            ),
        )
    }

    pub(in crate::engine) fn no_pool_of_family(&self, pools: &[String]) -> Failure {
        let pools = join(pools.iter().map(|pool| format!("pools.{pool}")));
        self.fail(
            "POOL_FAMILY",
            format!(
                "{} asks for an address of a family that none of {pools} has; add a pool of that family to {}.pools",
                self.peer(),
                self.line()
            ),
        )
    }

    pub(in crate::engine) fn address_not_asked_for(&self) -> Failure {
        self.fail(
            "ADDRESS_NOT_ASKED_FOR",
            format!(
                "{} asks for no inner address, but {}.pools is there to give it one and its children are for nobody else; have the peer ask for one (strongSwan: vips = 0.0.0.0), or set remote_ts to the peer's networks",
                self.peer(),
                self.line()
            ),
        )
    }

    pub(in crate::engine) fn no_address_assigned(&self, refused: bool) -> Failure {
        let (peer, line) = (self.peer(), self.line());
        let why = match refused {
            true => "has no inner address for us (INTERNAL_ADDRESS_FAILURE): its pool is full or it has none",
            false => "gave us no inner address though we asked for one",
        };
        self.fail(
            "NO_ADDRESS_ASSIGNED",
            format!("{peer} {why}; give it a pool with free addresses of that family (strongSwan: pools = NAME), or take {line}.vips away"),
        )
    }
}
