//! What either end may begin in an established IKE SA while the other's exchanges are under way (RFC 7296 §2.8, §2.25).

use portcullis_ipsec::Spi;

use super::children::{Child, Doomed, Sealing};
use super::create_child_sa::initiator::Purpose;
use super::established::{Established, Ours, Theirs};
use super::sa::Base;

impl Established {
    /// Whether the IKE SA is being rekeyed, by either end.
    pub(super) fn rekeys_ike(&self) -> bool {
        matches!(self.ours, Ours::RekeyingIke(_)) || matches!(self.theirs, Some(Theirs::Ike(_)))
    }

    /// Whether children are being created, rekeyed or closed by us (RFC 7296 §2.25.2).
    pub(super) fn has_half_open_children(&self) -> bool {
        matches!(self.ours, Ours::Creating(_) | Ours::Installing(..) | Ours::Deleting(_))
    }

    /// Whether there is a child, or the peer is making it.
    pub(super) fn peer_makes(&self, base: &Base, child: usize) -> bool {
        let theirs = matches!(&self.theirs, Some(Theirs::Child(theirs)) if theirs.child() == child);
        theirs || base.children.iter().any(|up| up.config == child)
    }

    /// Whether we may ask for a successor of a CHILD SA: it is in use, has none, nor does the peer make one, and it is not being deleted.
    pub(super) fn may_rekey(&self, base: &Base, child: &Child) -> bool {
        let theirs = match &self.theirs {
            Some(Theirs::Child(theirs)) => theirs.replaces(),
            _ => None,
        };
        theirs != Some(child.status.spi_in)
            && matches!(child.sealing, Sealing::Active(_))
            && self.may_be_rekeyed(base, child)
    }

    /// Whether the peer may rekey a CHILD SA.
    pub(super) fn may_be_rekeyed(&self, base: &Base, child: &Child) -> bool {
        child.successor.is_none()
            && !self.doomed(base).any(|doomed| doomed.pair == child.status.spi_in)
            && !matches!(child.sealing, Sealing::Never)
            && !matches!(&self.ours, Ours::Installing(_, purpose) if purpose.old() == Some(child.status.spi_in))
    }

    /// Whether the peer's wish for a child has crossed ours, which is met: it will find its own met too.
    pub(super) fn has_just_made(&self, child: usize) -> bool {
        let installing = match &self.ours {
            Ours::Installing(installing, Purpose::Goal) if installing.agreed.may_cross => {
                Some(installing.agreed.child)
            }
            _ => None,
        };
        self.just_made == Some(child) || installing == Some(child)
    }

    /// Whether the half that the peer receives on is about to be deleted by us, though it is gone here.
    pub(super) fn deletes_half(&self, base: &Base, spi: Spi) -> bool {
        self.doomed(base).any(|doomed| doomed.peer == Some(spi))
    }

    /// Whether the half that the peer receives on is, or may be, about to be installed here.
    pub(super) fn makes_half(&self, spi: Spi) -> bool {
        match &self.ours {
            Ours::Creating(creating) => creating.makes_half(spi),
            Ours::Installing(installing, _) => installing.agreed.peer == spi,
            _ => false,
        }
    }

    fn doomed<'a>(&'a self, base: &'a Base) -> impl Iterator<Item = &'a Doomed> {
        let under_way: &[Doomed] = match &self.ours {
            Ours::Deleting(under_way) => under_way,
            _ => &[],
        };
        base.deletes.iter().chain(under_way)
    }

    /// Our own exchange has prevailed over that in which the peer has made another successor of `old`, or makes it:
    /// nothing is ever sealed with that, and the peer deletes it (RFC 7296 §2.8.1).
    pub(super) fn peers_successor_is_redundant(&mut self, base: &mut Base, old: Spi) {
        if let Some(Theirs::Child(theirs)) = &mut self.theirs
            && theirs.replaces() == Some(old)
        {
            theirs.gives_way();
        }
        for child in base.children.iter_mut().filter(|child| child.replaces == Some(old)) {
            if matches!(child.sealing, Sealing::Waiting(_)) {
                child.sealing = Sealing::Never;
            }
        }
    }
}
