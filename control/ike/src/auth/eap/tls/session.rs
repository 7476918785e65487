//! One end of TLS, fed and drained by hand.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::{AlertDescription, ClientConfig, Connection, Error, ProtocolVersion, ServerConfig};
use rustls::{ClientConnection, ServerConnection};

use super::judge::{Claim, Judge, Own};
use super::{Circumstances, TlsSettings};
use crate::auth::eap::ttls::Challenges;
use crate::auth::eap::{Msk, Rejection};
use crate::config::{Identity, IdentityMatch};

/// How a method's key is exported (RFC 5216 §2.3, RFC 5281 §8): its label in TLS 1.2.
#[derive(Debug, Clone, Copy)]
pub(in crate::auth::eap) struct Export {
    /// In TLS 1.2.
    pub(in crate::auth::eap) label: &'static [u8],
    /// The context in TLS 1.3 (RFC 9190 §2.3, RFC 9427 §2.1).
    pub(in crate::auth::eap) kind: u8,
}

/// The label of all methods in TLS 1.3.
const LABEL_TLS13: &[u8] = b"EXPORTER_EAP_TLS_Key_Material";

/// TLS, as either end.
#[derive(Debug)]
pub(in crate::auth::eap) struct Session {
    connection: Box<Connection>,
    judge: Arc<Judge>,
}

impl Session {
    /// As the server; `client`: whom the client has to prove itself to be by a certificate, if it has to.
    pub(in crate::auth::eap) fn server(
        settings: &TlsSettings,
        client: Option<Claim>,
    ) -> Result<Self, Rejection> {
        let proves = client.is_some();
        let claim = client.unwrap_or(Claim::OneOf(IdentityMatch::Any));
        let judge = Arc::new(Judge::new(Arc::clone(&settings.trust), claim));
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| ours(&error))?;
        let builder = match proves {
            true => builder.with_client_cert_verifier(Arc::clone(&judge) as _),
            false => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Own::new(&settings.credentials)));
        // Nothing is resumed: whoever comes again proves itself again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let connection = ServerConnection::new(Arc::new(config)).map_err(|error| ours(&error))?;
        Ok(Self { connection: Box::new(connection.into()), judge })
    }

    /// As a client, which proves itself with a certificate if it has one and is asked.
    pub(in crate::auth::eap) fn client(settings: &TlsSettings, claim: Claim) -> Result<Self, Rejection> {
        let judge = Arc::new(Judge::new(Arc::clone(&settings.trust), claim));
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| ours(&error))?.dangerous();
        let builder = builder.with_custom_certificate_verifier(Arc::clone(&judge) as _);
        let mut config = builder.with_client_cert_resolver(Arc::new(Own::new(&settings.credentials)));
        config.resumption = Resumption::disabled();
        // EAP has no name of a server: the judge knows whom to expect.
        config.enable_sni = false;
        let name = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
        let connection = ClientConnection::new(Arc::new(config), name).map_err(|error| ours(&error))?;
        Ok(Self { connection: Box::new(connection.into()), judge })
    }

    /// Takes what the other end sent.
    pub(in crate::auth::eap) fn take(
        &mut self,
        mut octets: &[u8],
        circumstances: &Circumstances,
    ) -> Result<(), Rejection> {
        self.judge.set(Some(circumstances.clone()));
        let mut result = Ok(());
        while result.is_ok() && !octets.is_empty() {
            result = match self.connection.read_tls(&mut octets) {
                Ok(1..) => self.connection.process_new_packets().map(drop),
                Ok(0) | Err(_) => Err(Error::General("more than is taken at once".to_owned())),
            };
        }
        self.judge.set(None);
        result.map_err(|error| self.rejection(error))
    }

    /// What is to be sent: messages of the handshake, an alert, or what was written.
    pub(in crate::auth::eap) fn output(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        while self.connection.wants_write() && self.connection.write_tls(&mut octets).is_ok() {}
        octets
    }

    /// Whether both ends have finished their handshake.
    pub(in crate::auth::eap) fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Whether it is TLS 1.3.
    pub(in crate::auth::eap) fn is_tls13(&self) -> bool {
        self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Who the other end is by its certificate.
    pub(in crate::auth::eap) fn peer(&self) -> Option<Identity> {
        self.judge.found()?.ok()
    }

    /// Protects octets for the other end.
    pub(in crate::auth::eap) fn write(&mut self, octets: &[u8]) {
        // Into memory, so that it cannot fail but for its bound, which nothing of ours comes near.
        let _ = self.connection.writer().write_all(octets);
    }

    /// What the other end has protected for us since.
    pub(in crate::auth::eap) fn read(&mut self) -> Vec<u8> {
        let mut octets = Vec::new();
        // At the end of what is there it would block.
        let _ = self.connection.reader().read_to_end(&mut octets);
        octets
    }

    /// The key of a method: the first 64 octets of what is exported; the rest is the EMSK, which nobody uses here.
    pub(in crate::auth::eap) fn msk(&self, export: Export) -> Option<Msk> {
        let kind = [export.kind];
        let (label, context) = match self.is_tls13() {
            true => (LABEL_TLS13, Some(&kind[..])),
            false => (export.label, None),
        };
        let mut material = zeroize::Zeroizing::new([0; 128]);
        self.connection.export_keying_material(&mut material[..], label, context).ok()?;
        Msk::new(material.first_chunk::<64>()?.to_vec())
    }

    /// What both ends draw from TLS for challenges inside it (RFC 5281 §11.1). How many octets there are counts: in TLS 1.3
    /// fewer are not the beginning of more.
    pub(in crate::auth::eap) fn challenges(&self) -> Result<Challenges, Rejection> {
        Ok(Challenges { long: self.challenge()?, short: self.challenge()? })
    }

    fn challenge<const N: usize>(&self) -> Result<[u8; N], Rejection> {
        let drawn = self.connection.export_keying_material([0; N], b"ttls challenge", None);
        drawn.map_err(|error| ours(&error))
    }

    fn rejection(&self, error: Error) -> Rejection {
        if let Some(Err(rejection)) = self.judge.found() {
            return rejection;
        }
        match error {
            Error::AlertReceived(alert) => match alert {
                AlertDescription::HandshakeFailure
                | AlertDescription::ProtocolVersion
                | AlertDescription::InsufficientSecurity => {
                    Rejection::TlsMismatch { what: format!("it says {}", alert_name(alert)) }
                }
                _ => Rejection::TlsAlert { alert: alert_name(alert) },
            },
            Error::PeerIncompatible(what) => Rejection::TlsMismatch { what: format!("{what:?}") },
            Error::NoCertificatesPresented => Rejection::NoCertificate,
            error => Rejection::Malformed { what: format!("TLS that cannot be: {error}") },
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// TLS could not even begin.
fn ours(error: &Error) -> Rejection {
    Rejection::Malformed { what: format!("nothing yet, but TLS does not begin here: {error}") }
}

/// An alert's name in RFC 8446 §6, with what it means where operators meet it.
fn alert_name(alert: AlertDescription) -> String {
    let (name, meaning) = match alert {
        AlertDescription::HandshakeFailure => ("handshake_failure", "nothing that it takes was offered"),
        AlertDescription::BadCertificate => ("bad_certificate", "it does not take our certificate"),
        AlertDescription::UnsupportedCertificate => {
            ("unsupported_certificate", "it does not take certificates of this kind")
        }
        AlertDescription::CertificateRevoked => ("certificate_revoked", "our certificate was revoked"),
        AlertDescription::CertificateExpired => {
            ("certificate_expired", "our certificate has expired, or its clock is wrong")
        }
        AlertDescription::CertificateUnknown => {
            ("certificate_unknown", "it does not take our certificate, and does not say why")
        }
        AlertDescription::CertificateRequired => ("certificate_required", "we sent no certificate"),
        AlertDescription::UnknownCA => ("unknown_ca", "it does not trust the CA of our certificate"),
        AlertDescription::AccessDenied => ("access_denied", "it knows us and does not let us in"),
        AlertDescription::DecryptError => ("decrypt_error", "it does not take our signature"),
        AlertDescription::ProtocolVersion => ("protocol_version", "no version of TLS in common"),
        AlertDescription::InsufficientSecurity => {
            ("insufficient_security", "it wants stronger cipher suites")
        }
        AlertDescription::InternalError => ("internal_error", "it failed by itself"),
        other => return format!("alert {} of TLS", u8::from(other)),
    };
    format!("{name} ({meaning})")
}
