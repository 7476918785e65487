//! Proposals as the exchanges need them: offered, chosen from an offer, checked when the peer has chosen. The
//! rules are in [`crate::proposal`].

use portcullis_ipsec::Spi;

use crate::message::WireProposal;
use crate::proposal::{EspProposal, EspSuite, IkeProposal, IkeSuite};

pub(super) fn offer_ike(_ours: &[IkeProposal]) -> Vec<WireProposal> { todo!() }
pub(super) fn choose_ike(_ours: &[IkeProposal], _offered: &[WireProposal]) -> Result<(IkeSuite, WireProposal), String> { todo!() }
pub(super) fn chosen_ike(_ours: &[IkeProposal], _answer: &[WireProposal]) -> Result<IkeSuite, String> { todo!() }
pub(super) fn allows(_ours: &[IkeProposal], _suite: IkeSuite) -> bool { todo!() }
pub(super) fn restrict_ke(_offered: &[WireProposal], _group: u16) -> Vec<WireProposal> { todo!() }
#[derive(Debug, Clone, Copy)]
pub(super) struct EspChoice { pub(super) suite: EspSuite, pub(super) peer: Spi, pub(super) number: u8 }
pub(super) fn offer_esp(_ours: &[EspProposal], _spi: Spi, _with_ke: bool) -> Vec<WireProposal> { todo!() }
pub(super) fn choose_esp(_ours: &[EspProposal], _offered: &[WireProposal], _with_ke: bool) -> Result<EspChoice, String> { todo!() }
pub(super) fn chosen_esp(_ours: &[EspProposal], _answer: &[WireProposal], _with_ke: bool) -> Result<EspChoice, String> { todo!() }
pub(super) fn answer_esp(_suite: EspSuite, _number: u8, _spi: Spi) -> WireProposal { todo!() }
