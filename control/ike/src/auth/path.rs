//! Certification paths (RFC 5280 §6, as RFC 4945 §5 profiles it for IKE): from a peer's certificate over
//! intermediates to an authority that is trusted here.

use std::sync::Arc;

use der::asn1::ObjectIdentifier;

use super::certificate::{Certificate, UnixTime};
use super::constraint::Constraint;
use super::rejection::Rejection;
use super::revocation::{self, Revocation, RevocationSource, StatusSource};
use super::scheme::HashAlgorithm;

/// Certificates of a path, the peer's and the authority's included.
const MAX_DEPTH: usize = 8;
/// Signatures that are verified for one peer, so that a heap of certificates of one name costs no more.
const MAX_SIGNATURES: usize = 32;

const ANY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37.0");
/// Purposes that a peer's certificate may be limited to. RFC 4945 §5.1.3.12 has id-kp-ipsecIKE. The others are what
/// certificates for IKE carry in the field: Windows and Apple ask a gateway's for serverAuth, their clients' have
/// clientAuth, older ones ikeIntermediate or the three purposes that id-kp-ipsecIKE replaced.
const IKE_USAGES: [ObjectIdentifier; 7] = [
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.17"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.8.2.2"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.5"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.6"),
    ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.7"),
];

/// What a path is validated against.
pub(super) struct Validation<'a> {
    pub(super) authorities: &'a [Arc<Certificate>],
    pub(super) intermediates: &'a [&'a Certificate],
    pub(super) constraint: &'a Constraint,
    pub(super) revocation: Revocation,
    pub(super) status_sources: &'a [StatusSource],
    pub(super) source: &'a dyn RevocationSource,
    pub(super) now: UnixTime,
}

impl Validation<'_> {
    /// Whether an authority vouches for a peer's certificate. Of several reasons why none does, the one that came
    /// closest.
    pub(super) fn validate(&self, leaf: &Certificate) -> Result<(), Rejection> {
        self.check_leaf(leaf)?;
        self.extend(&mut vec![leaf], &mut 0)
    }

    /// What is asked of a peer's certificate whoever has issued it.
    pub(super) fn check_leaf(&self, leaf: &Certificate) -> Result<(), Rejection> {
        self.check_any(leaf)?;
        let signs =
            |usage: &x509_cert::ext::pkix::KeyUsage| usage.digital_signature() || usage.non_repudiation();
        if leaf.ext.key_usage.as_ref().is_some_and(|usage| !signs(usage)) {
            return Err(not_allowed(
                leaf,
                "it is not for signatures (keyUsage has neither digitalSignature nor nonRepudiation)",
            ));
        }
        let fits = |usage: &ObjectIdentifier| *usage == ANY_USAGE || IKE_USAGES.contains(usage);
        if leaf.ext.extended_key_usage.as_ref().is_some_and(|usages| !usages.0.iter().any(fits)) {
            return Err(not_allowed(
                leaf,
                "its extendedKeyUsage has no purpose that fits IKE (expected ipsecIKE, serverAuth, clientAuth or any)",
            ));
        }
        Ok(())
    }

    fn check_any(&self, certificate: &Certificate) -> Result<(), Rejection> {
        let subject = || certificate.subject().clone();
        if self.now > certificate.not_after() {
            return Err(Rejection::Expired {
                subject: subject(),
                not_after: certificate.not_after(),
                now: self.now,
            });
        }
        if self.now < certificate.not_before() {
            return Err(Rejection::NotYetValid {
                subject: subject(),
                not_before: certificate.not_before(),
                now: self.now,
            });
        }
        match certificate.ext.unknown_critical.first() {
            Some(oid) => Err(not_allowed(
                certificate,
                &format!("it has the critical extension {oid}, which is not understood"),
            )),
            None => Ok(()),
        }
    }

    /// Looks for issuers of the last certificate of a path, trusted ones first.
    fn extend<'c>(
        &'c self,
        path: &mut Vec<&'c Certificate>,
        signatures: &mut usize,
    ) -> Result<(), Rejection> {
        let Some(last) = path.last().copied() else { return Ok(()) };
        let mut closest = None;
        let trusted = self.authorities.iter().map(|authority| (authority.as_ref(), true));
        let sent = self.intermediates.iter().map(|intermediate| (*intermediate, false));
        for (issuer, is_trusted) in trusted.chain(sent) {
            if !last.names_issuer(issuer) || path.contains(&issuer) {
                continue;
            }
            let attempt = self.step(path, last, issuer, is_trusted, signatures);
            match attempt {
                Ok(()) => return Ok(()),
                // What an authority says outweighs what a certificate of its name says.
                Err(rejection) => _ = closest.get_or_insert(rejection),
            }
        }
        Err(closest.unwrap_or_else(|| self.no_issuer(last)))
    }

    fn no_issuer(&self, certificate: &Certificate) -> Rejection {
        let (subject, issuer) = (certificate.subject().clone(), certificate.issuer().clone());
        if self.authorities.iter().any(|authority| authority.subject().same(&issuer)) {
            return Rejection::OtherIssuer { subject, issuer };
        }
        Rejection::NoIssuer { subject, issuer, trusted: self.trusted() }
    }

    fn step<'c>(
        &'c self,
        path: &mut Vec<&'c Certificate>,
        last: &Certificate,
        issuer: &'c Certificate,
        is_trusted: bool,
        signatures: &mut usize,
    ) -> Result<(), Rejection> {
        if path.len() >= MAX_DEPTH || *signatures >= MAX_SIGNATURES {
            return Err(not_allowed(
                last,
                "too many certificates lie between it and a CA that is trusted here",
            ));
        }
        self.check_signature(last, issuer, signatures)?;
        self.check_issuer(issuer)?;
        path.push(issuer);
        let result = if is_trusted { self.check_path(path) } else { self.extend(path, signatures) };
        path.pop();
        result
    }

    fn check_signature(
        &self,
        certificate: &Certificate,
        issuer: &Certificate,
        signatures: &mut usize,
    ) -> Result<(), Rejection> {
        let refused =
            |found: String| Rejection::ChainScheme { subject: certificate.subject().clone(), found };
        let scheme = certificate.scheme().clone().map_err(refused)?;
        if scheme.hash() == HashAlgorithm::Sha1
            || !self.constraint.allows_in_chain(issuer.key().kind(), scheme)
        {
            return Err(refused(format!("{scheme} by an {} key", issuer.key().kind())));
        }
        *signatures += 1;
        if certificate.is_signed_by(issuer.key()) {
            return Ok(());
        }
        Err(Rejection::ChainSignature {
            subject: certificate.subject().clone(),
            issuer: issuer.subject().clone(),
        })
    }

    fn check_issuer(&self, issuer: &Certificate) -> Result<(), Rejection> {
        self.check_any(issuer)?;
        if !issuer.is_authority() {
            return Err(not_allowed(issuer, "it is no CA's (basicConstraints), but has issued another"));
        }
        if issuer.ext.key_usage.as_ref().is_some_and(|usage| !usage.key_cert_sign()) {
            return Err(not_allowed(
                issuer,
                "it is not for signing certificates (keyUsage lacks keyCertSign)",
            ));
        }
        Ok(())
    }

    /// What a path must fulfil as a whole: from the peer's certificate to the authority's.
    fn check_path(&self, path: &[&Certificate]) -> Result<(), Rejection> {
        let mut authorities_below: u8 = 0;
        for (index, issuer) in path.iter().enumerate().skip(1) {
            let limit = issuer.ext.basic_constraints.as_ref().and_then(|c| c.path_len_constraint);
            if let Some(limit) = limit.filter(|limit| authorities_below > *limit) {
                let why =
                    format!("{authorities_below} CAs lie below it, and its pathLenConstraint is {limit}");
                return Err(not_allowed(issuer, &why));
            }
            if !issuer.is_self_issued() {
                authorities_below = authorities_below.saturating_add(1);
            }
            let below = path.get(..index).unwrap_or_default();
            if let Some(constraints) = &issuer.ext.name_constraints {
                for (at, certificate) in below.iter().enumerate() {
                    // RFC 5280 §6.1.3 (b): a CA that was rekeyed has certified itself.
                    if at > 0 && certificate.is_self_issued() {
                        continue;
                    }
                    certificate.keeps_to(constraints).map_err(|why| {
                        let why = format!("{why} of `{}`'s nameConstraints", issuer.subject());
                        not_allowed(certificate, &why)
                    })?;
                }
            }
            if let Some(certificate) = below.last() {
                let policy = (self.revocation, self.status_sources);
                revocation::check(certificate, issuer, policy, self.now, self.source)?;
            }
        }
        Ok(())
    }

    fn trusted(&self) -> String {
        let names: Vec<String> =
            self.authorities.iter().map(|authority| format!("`{}`", authority.subject())).collect();
        if names.is_empty() { "there are none".to_owned() } else { names.join(", ") }
    }
}

fn not_allowed(certificate: &Certificate, why: &str) -> Rejection {
    Rejection::NotAllowed { subject: certificate.subject().clone(), why: why.to_owned() }
}
