//! `portcullis pki`: a small certificate authority in a directory, enough for a first tunnel with certificates and
//! for the first hundred clients after it.
//!
//! [`Authority`] is the CA: it is made or opened, issues, revokes and signs revocation lists. [`name`] turns what an
//! operator calls an end into a subject and subject alternative names, `store` owns the directory: its layout, its
//! lock, and that nothing is overwritten by accident. Certificates follow RFC 5280 and, where IKE asks for more,
//! RFC 4945. Nothing here prints: the command line says what was written.

mod authority;
mod bundle;
mod name;
mod store;

use std::io;
use std::path::PathBuf;

pub use authority::{Authority, Issue, Issued, KeyKind, NewAuthority, Profile, Revocation, Written};
pub use name::{AltName, NameError};
pub use store::{Entry, Revoked};

/// Why a certificate authority did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file would be overwritten.
    #[error("{} exists already, and nothing was written (--force replaces it)", .0.display())]
    Exists(PathBuf),
    /// There is no CA in the directory.
    #[error("there is no CA in {dir}: make one with `portcullis pki ca --dir {dir}`", dir = .0.display())]
    NoAuthority(PathBuf),
    /// A file of the directory cannot be read or written.
    #[error("cannot {what} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file of the directory is not what it should be.
    #[error("{} is not {wanted}: {problem}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A name that no certificate can carry.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A certificate would be valid longer than the CA that signs it.
    #[error(
        "the certificate would be valid until {wanted}, but the CA only until {authority}: at most --days {most}, or a \
         new CA"
    )]
    OutlivesAuthority {
        /// End of the certificate.
        wanted: String,
        /// End of the CA.
        authority: String,
        /// Days that are left.
        most: i64,
    },
    /// The CA itself is past its end.
    #[error(
        "the CA has expired on {0}: make a new one in another directory and give its certificate to every peer"
    )]
    AuthorityExpired(String),
    /// Nothing that was issued fits.
    #[error(
        "no certificate with the name or serial number `{wanted}` was issued here (see `portcullis pki list`)"
    )]
    Unknown {
        /// What was asked for.
        wanted: String,
    },
    /// More than one certificate fits.
    #[error(
        "`{wanted}` has several certificates that are not revoked; say which one by its serial number: {serials}"
    )]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// Those that fit.
        serials: String,
    },
    /// Revoked before.
    #[error("the certificate {serial} was revoked on {at} already")]
    AlreadyRevoked {
        /// Its serial number.
        serial: String,
        /// When.
        at: String,
    },
    /// A validity of nothing, or of more than a certificate can say.
    #[error("a validity of {0} days makes no sense (expected 1 to 36500)")]
    Days(u32),
    /// A password that a PKCS#12 bundle cannot have.
    #[error("the password in {} {problem}", .path.display())]
    Password {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The cryptographic library says no.
    #[error("cannot make the {what}: {problem}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        problem: String,
    },
}
