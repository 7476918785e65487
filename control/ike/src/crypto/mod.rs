//! The cryptography of IKE: key exchange, pseudorandom functions, key derivation (RFC 7296 §2.13 to §2.18), and the
//! protection of messages (§3.14). Every function is pure but for the randomness that [`ke`] says; secrets are zeroized
//! on drop and never printed.

mod cipher;
mod kdf;
mod ke;
mod mac;
mod modp;
mod prf;
mod protection;
mod puzzle;

pub use cipher::{AesKey, IkeEncr};
pub use kdf::{
    IkeKeys, KdfInput, derive_child_keymat, derive_ike_keys, derive_rekeyed_ike_keys,
    derive_resumed_ike_keys, psk_auth,
};
pub use ke::{KeMethod, KeSecret, KeyExchangeError, SharedSecret, answer, derive, generate};
pub use prf::Prf;
pub use protection::{DirectionKeys, IkeInteg, IntegrityError, Protection};
pub use puzzle::Puzzle;
