//! The reason codes: one list, with the kind of each and what it says in few words. Every code has a page of its name in
//! `docs/reasons`, without which it does not compile, and a test that no page is left over.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// On whose account something failed, so that an operator knows whom to turn to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The two ends are configured so that they cannot agree.
    Configuration,
    /// Packets do not arrive.
    Network,
    /// The peer does what the standard does not allow, or its own state is broken.
    Peer,
    /// We could not do what was agreed on.
    Ours,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Network => "network",
            Self::Peer => "the peer's fault",
            Self::Ours => "our fault",
        })
    }
}

/// A text that is no reason code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no reason code: `portcullis explain reason` lists them")]
pub struct UnknownReason(String);

macro_rules! reasons {
    ($($variant:ident, $code:literal, $kind:ident, $summary:literal;)+) => {
        /// Why an exchange failed or is degraded. The code is stable: metrics, alerts and scripts rely on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason {
            $(#[doc = $summary] #[serde(rename = $code)] $variant,)+
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable code, such as `PSK_MISMATCH`.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// On whose account.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind),+ }
            }

            /// Its page in `docs/reasons`, as Markdown.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        include_str!(concat!("../../../../docs/reasons/", $code, ".md"))
                    })+
                }
            }

            /// What it means, in few words.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary),+ }
            }
        }
    };
}

reasons! {
    // The first exchange.
    NoConfigForAddress, "NO_CONFIG_FOR_ADDRESS", Configuration, "no connection is configured for these two addresses";
    ProposalEncrMismatch, "PROPOSAL_ENCR_MISMATCH", Configuration, "no IKE encryption algorithm in common";
    ProposalIntegMismatch, "PROPOSAL_INTEG_MISMATCH", Configuration, "no IKE integrity algorithm in common";
    ProposalPrfMismatch, "PROPOSAL_PRF_MISMATCH", Configuration, "no pseudorandom function in common";
    ProposalKeMismatch, "PROPOSAL_KE_MISMATCH", Configuration, "no key exchange method in common";
    ProposalMismatch, "PROPOSAL_MISMATCH", Configuration, "the IKE proposals differ in several kinds of transform";
    ProposalRefused, "PROPOSAL_REFUSED", Configuration, "the peer refused our IKE proposals, or has no connection for our address";
    VersionMismatch, "VERSION_MISMATCH", Configuration, "the peer does not speak IKEv2";
    // Who is who.
    IdUnexpected, "ID_UNEXPECTED", Configuration, "the peer's identity, or the one it wants of us, is not the configured one";
    AuthMethodMismatch, "AUTH_METHOD_MISMATCH", Configuration, "the peer authenticates with another method than the configured one";
    NoSharedKey, "NO_SHARED_KEY", Configuration, "no pre-shared key is configured for these two identities";
    PskMismatch, "PSK_MISMATCH", Configuration, "the pre-shared keys differ";
    NoPpk, "NO_PPK", Configuration, "the post-quantum pre-shared key that is to be used is not configured";
    PpkRequired, "PPK_REQUIRED", Configuration, "a post-quantum pre-shared key is required, and the two ends did not use one";
    PpkMismatch, "PPK_MISMATCH", Configuration, "the post-quantum pre-shared keys of one name differ";
    AuthenticationFailed, "AUTHENTICATION_FAILED", Configuration, "the peer rejected our authentication";
    NotResumed, "NOT_RESUMED", Peer, "an IKE SA was not resumed";
    UnauthenticatedRefused, "UNAUTHENTICATED_REFUSED", Configuration, "a peer that proves nothing asks for more than such peers get";
    NotUnique, "NOT_UNIQUE", Configuration, "the peer has an IKE SA already, and only one is allowed";
    // Certificates and signatures.
    CertMissing, "CERT_MISSING", Configuration, "the peer sent no certificate and none is configured for it";
    CertUnusable, "CERT_UNUSABLE", Peer, "the peer's certificate cannot be read or is of an unsupported kind";
    CertExpired, "CERT_EXPIRED", Configuration, "a certificate has expired";
    ClockSkew, "CLOCK_SKEW", Configuration, "a certificate is not valid yet: one of the clocks is wrong";
    CertNoIssuer, "CERT_NO_ISSUER", Configuration, "no trusted CA vouches for the certificate";
    CertInvalid, "CERT_INVALID", Configuration, "the certificate must not be used for this";
    CertRevoked, "CERT_REVOKED", Configuration, "the certificate was revoked";
    CertStatusUnknown, "CERT_STATUS_UNKNOWN", Configuration, "whether the certificate was revoked cannot be found out";
    CertNotAccepted, "CERT_NOT_ACCEPTED", Configuration, "the certificate or key is none of those that are accepted";
    IdNotInCertificate, "ID_NOT_IN_CERTIFICATE", Configuration, "the certificate is for other identities than the one claimed";
    HashNotSupported, "HASH_NOT_SUPPORTED", Configuration, "no hash algorithm for signatures in common";
    SignatureInvalid, "SIGNATURE_INVALID", Peer, "the signature does not fit the key";
    // EAP.
    EapUnknownUser, "EAP_UNKNOWN_USER", Configuration, "no password of the user is configured";
    EapWrongPassword, "EAP_WRONG_PASSWORD", Configuration, "the user gave another password than the configured one";
    EapNoPassword, "EAP_NO_PASSWORD", Configuration, "no password is configured for us as a user";
    EapMethodMismatch, "EAP_METHOD_MISMATCH", Configuration, "no EAP method in common";
    EapRefused, "EAP_REFUSED", Configuration, "the peer refused us as a user";
    EapServerNotProven, "EAP_SERVER_NOT_PROVEN", Peer, "the server of EAP does not know the user's password";
    EapTlsMismatch, "EAP_TLS_MISMATCH", Configuration, "no TLS version, cipher suite or signature in common for EAP";
    EapTlsAlert, "EAP_TLS_ALERT", Configuration, "the peer broke TLS off inside EAP, with an alert that says why";
    EapGivenUp, "EAP_GIVEN_UP", Peer, "the peer broke EAP off";
    EapKeyMismatch, "EAP_KEY_MISMATCH", Peer, "the peer does not have the key that came of EAP";
    AaaRefused, "AAA_REFUSED", Configuration, "the AAA server refused the user";
    AaaUnreachable, "AAA_UNREACHABLE", Network, "no AAA server answered so that it could be believed";
    AaaNoKey, "AAA_NO_KEY", Configuration, "the AAA server let the user in without the key of the EAP method";
    // Children.
    ChildProposalEncrMismatch, "CHILD_PROPOSAL_ENCR_MISMATCH", Configuration, "no ESP encryption algorithm in common";
    ChildProposalIntegMismatch, "CHILD_PROPOSAL_INTEG_MISMATCH", Configuration, "no ESP integrity algorithm in common";
    ChildProposalKeMismatch, "CHILD_PROPOSAL_KE_MISMATCH", Configuration, "no key exchange method for the CHILD SA in common";
    ChildProposalEsnMismatch, "CHILD_PROPOSAL_ESN_MISMATCH", Configuration, "one end insists on extended sequence numbers, the other has none";
    ChildProposalMismatch, "CHILD_PROPOSAL_MISMATCH", Configuration, "the ESP proposals differ in several kinds of transform";
    ChildProposalRefused, "CHILD_PROPOSAL_REFUSED", Configuration, "the peer refused our ESP proposals";
    TsNoOverlap, "TS_NO_OVERLAP", Configuration, "the traffic selectors of both ends have nothing in common";
    ChildlessMismatch, "CHILDLESS_MISMATCH", Configuration, "one end insists on an IKE SA that begins without a child, or on one that does not";
    TsMaxQueue, "TS_MAX_QUEUE", Configuration, "one end wants no more CHILD SAs of single processors";
    ChildModeMismatch, "CHILD_MODE_MISMATCH", Configuration, "one end wants transport mode, the other a tunnel";
    // Inner addresses.
    PoolExhausted, "POOL_EXHAUSTED", Configuration, "no address of the pools is free";
    PoolFamily, "POOL_FAMILY", Configuration, "no pool has addresses of the family that the peer asks for";
    AddressNotAskedFor, "ADDRESS_NOT_ASKED_FOR", Configuration, "the peer asks for no inner address, which its children need";
    NoAddressAssigned, "NO_ADDRESS_ASSIGNED", Configuration, "the peer gave us no inner address";
    // The network.
    NoRoute, "NO_ROUTE", Network, "the kernel has no route to the peer";
    TcpFailed, "TCP_FAILED", Network, "there is no TCP connection to the peer";
    PeerSilent, "PEER_SILENT", Network, "the peer does not answer";
    AuthNeverCame, "AUTH_NEVER_CAME", Network, "the peer began an IKE SA and did not go on";
    Nat4500Blocked, "NAT_BLOCKS_4500", Network, "UDP 500 passes and UDP 4500 does not";
    FragmentsLost, "FRAGMENTS_LOST", Network, "small messages pass and large ones do not";
    MoveRefused, "MOVE_REFUSED", Configuration, "an end has moved to an address that the other does not allow";
    RedirectRefused, "REDIRECT_REFUSED", Configuration, "a gateway sends us to where we do not go";
    // The peer.
    PeerRefused, "PEER_REFUSED", Peer, "the peer answered with an error";
    PeerRestarted, "PEER_RESTARTED", Peer, "the peer has lost its state";
    PeerBusy, "PEER_BUSY", Peer, "the peer has been busy for minutes";
    PeerMisbehaved, "PEER_MISBEHAVED", Peer, "the peer does what the standard does not allow";
    // Ourselves.
    KeyExchangeFailed, "KEY_EXCHANGE_FAILED", Ours, "the key exchange could not be computed";
    SigningFailed, "SIGNING_FAILED", Ours, "our private key refused to sign";
    InstallFailed, "INSTALL_FAILED", Ours, "the data plane refused a negotiated SA";
    ClosedEarly, "CLOSED_EARLY", Ours, "what was asked for ended before it was up";
    // Commands.
    UnknownConnection, "UNKNOWN_CONNECTION", Configuration, "no connection is called so";
    UnknownChild, "UNKNOWN_CHILD", Configuration, "the connection has no child called so";
    NothingToTerminate, "NOTHING_TO_TERMINATE", Configuration, "there is no SA to be terminated";
    NothingToRekey, "NOTHING_TO_REKEY", Configuration, "there is no SA to be rekeyed from here";
    NothingToRedirect, "NOTHING_TO_REDIRECT", Configuration, "there is no client that would go to another gateway";
    NoRemoteAddress, "NO_REMOTE_ADDRESS", Configuration, "the connection names no address to initiate to";
}

impl Reason {
    /// Where it is explained, below the documentation's root.
    pub fn page(self) -> String {
        format!("docs/reasons/{}.md", self.code())
    }

    /// Whether it is about who is who, and how that was proved.
    pub fn is_about_authentication(self) -> bool {
        // In the order above.
        (Self::IdUnexpected..=Self::AaaNoKey).contains(&self)
    }

    /// Whether it is news of an SA: not so for a command that named something that is not there.
    pub fn is_about_an_exchange(self) -> bool {
        !matches!(
            self,
            Self::UnknownConnection
                | Self::UnknownChild
                | Self::NothingToTerminate
                | Self::NothingToRekey
                | Self::NothingToRedirect
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let found = Self::ALL.iter().find(|reason| reason.code() == text);
        found.copied().ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_reason_has_a_page_and_every_page_a_reason() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reasons");
        let pages: BTreeSet<String> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
            .filter(|name| name != "README")
            .collect();
        let codes: BTreeSet<String> = Reason::ALL.iter().map(|reason| reason.code().to_owned()).collect();
        assert_eq!(pages, codes);
        let index = std::fs::read_to_string(dir.join("README.md")).unwrap();
        for reason in Reason::ALL {
            let page = std::fs::read_to_string(dir.join(format!("{reason}.md"))).unwrap();
            assert!(page.starts_with(&format!("# {reason}\n")), "{reason}: the title is not the code");
            assert!(page.contains(&format!("Kind: {}", reason.kind())), "{reason}: the kind is not its own");
            for section in ["## What it means", "## How to tell", "## What to do"] {
                assert!(page.contains(section), "{reason}: no section `{section}`");
            }
            assert!(index.contains(&format!("[{reason}]({reason}.md)")), "{reason} is not in the index");
        }
    }

    #[test]
    fn a_code_is_the_name_in_json_and_reads_back() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
            assert_eq!(reason.code().parse(), Ok(*reason));
        }
        assert!("NONSENSE".parse::<Reason>().is_err());
    }
}
