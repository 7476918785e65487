//! What happens to peers, for those outside who want to know. [`sessions`] makes [`Happening`]s of what the engine says, one
//! event after the other: who is there, over all rekeyings, and what was carried. Whoever listens is in [`Listeners`]: the
//! stream of `portcullis events` ([`hub`]), the audit trail ([`audit`]), hooks ([`crate::hooks`]), routes
//! for a routing daemon ([`routes`]).
//!
//! Everything here runs in the engine's task, so that nothing may wait.

pub(crate) mod audit;
pub(crate) mod hub;
mod report;
pub(crate) mod routes;
pub(crate) mod sessions;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_ike::engine::{Failure, IkeSaId};
use portcullis_ipsec::Spi;

use crate::daemon::Carried;
use crate::hooks::Hooks;
use audit::Audit;
use hub::Hub;
use routes::Routes;
use sessions::{Child, Session};

/// Something that happened, with what is known of whom it happened to.
#[derive(Debug)]
pub(crate) enum Happening<'a> {
    /// Both ends are authenticated.
    IkeUp { session: &'a Session },
    /// An IKE SA has a successor.
    IkeRekeyed { session: &'a Session, replaced: IkeSaId },
    /// An IKE SA goes on between other addresses than these, ours and the peer's.
    IkeMoved { session: &'a Session, from: (SocketAddr, SocketAddr) },
    /// An IKE SA is gone, and nothing is in its place.
    IkeDown { session: &'a Session, reason: &'a str, carried: Carried },
    /// A CHILD SA is up.
    ChildUp { session: &'a Session, child: &'a Child },
    /// A CHILD SA has a successor.
    ChildRekeyed { session: &'a Session, child: &'a Child, replaced: Spi },
    /// A CHILD SA is gone, and nothing is in its place.
    ChildDown { session: &'a Session, child: &'a Child, reason: &'a str, carried: Carried },
    /// A peer has inner addresses of us.
    AddressesAssigned {
        session: Option<&'a Session>,
        ike: IkeSaId,
        connection: &'a str,
        identity: &'a str,
        addresses: &'a [IpAddr],
    },
    /// It has them no more.
    AddressesReleased { ike: IkeSaId, connection: &'a str, addresses: &'a [IpAddr] },
    /// We have inner addresses of a peer.
    AddressesAcquired { connection: &'a str, addresses: &'a [IpAddr] },
    /// We have them no more.
    AddressesLost { connection: &'a str, addresses: &'a [IpAddr] },
    /// One end sends the other away.
    Redirected { ike: IkeSaId, connection: &'a str, remote: SocketAddr, to: IpAddr, by_us: bool },
    /// An exchange failed.
    Failed(&'a Failure),
}

/// Who is told.
#[derive(Debug, Clone)]
pub(crate) struct Listeners {
    /// Readers of the stream.
    pub(crate) hub: Arc<Hub>,
    /// The audit trail, if there is one.
    pub(crate) audit: Option<Arc<Audit>>,
    /// What runs hooks, if there was one at the start.
    pub(crate) hooks: Option<Arc<Hooks>>,
    /// Routes for a routing daemon, if they are wanted.
    pub(crate) routes: Option<Arc<Routes>>,
}

impl Listeners {
    /// Tells everybody.
    pub(crate) fn hear(&self, happening: &Happening<'_>) {
        self.hub.publish(|| report::happened(happening));
        if let Some(audit) = &self.audit {
            audit.hear(happening);
        }
        if let Some(hooks) = &self.hooks {
            hooks.hear(happening);
        }
        if let Some(routes) = &self.routes {
            routes.hear(happening);
        }
    }
}
