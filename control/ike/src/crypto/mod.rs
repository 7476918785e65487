//! The cryptography of IKE: key exchange, pseudorandom functions, key derivation (RFC 7296 §2.13 to §2.18), the
//! Encrypted payload's AEAD (RFC 5282). Every function is pure; secrets are zeroized on drop and never printed.

mod aead;
mod kdf;
mod ke;
mod modp;

pub use aead::{IkeAead, IntegrityError};
pub use kdf::{
    IkeKeys, KdfInput, Prf, derive_child_keymat, derive_ike_keys, derive_rekeyed_ike_keys, psk_auth,
};
pub use ke::{KeMethod, KeSecret, KeyExchangeError, SharedSecret, derive, generate};
