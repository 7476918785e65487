//! `auth = "pubkey"`: which certificates, keys and CAs a connection has, by the names of swanctl.conf, and whether
//! they fit each other and the identities.

use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_ike::auth::{
    Certificate, Constraint, Credential, Crl, PrivateKey, PublicKey, Revocation, StatusSource, Trust,
    UnixTime,
};
use portcullis_ike::config::{Identity, IdentityMatch, LocalMethod, RemoteMethod, Secret};

use super::files;
use super::reader::{Section, Spanned};
use super::secrets;

/// Directories that names of files are looked up in; swanctl's, beside the configuration file unless `[gateway]` says
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Certificates of end entities.
    pub x509: PathBuf,
    /// Certificates of CAs. All of them are trusted where a connection names none.
    pub x509ca: PathBuf,
    /// CRLs.
    pub x509crl: PathBuf,
    /// Private keys.
    pub private: PathBuf,
    /// Raw public keys.
    pub pubkey: PathBuf,
}

impl Directories {
    /// Those beside a configuration file that lies in `base`.
    pub(super) fn beside(base: &Path) -> Self {
        let at = |name: &str| base.join(name);
        Self {
            x509: at("x509"),
            x509ca: at("x509ca"),
            x509crl: at("x509crl"),
            private: at("private"),
            pubkey: at("pubkey"),
        }
    }

    /// With those that `[gateway]` names; they must be there.
    pub(super) fn from_section(section: &Section<'_>, base: &Path) -> Self {
        let mut directories = Self::beside(base);
        for (key, path) in [
            ("x509", &mut directories.x509),
            ("x509ca", &mut directories.x509ca),
            ("x509crl", &mut directories.x509crl),
            ("private", &mut directories.private),
            ("pubkey", &mut directories.pubkey),
        ] {
            let Some(named) = section.string(key, "a directory") else { continue };
            *path = base.join(named.value);
            if !path.is_dir() {
                section.error(named.span, key, format!("`{}` is no directory", path.display()));
            }
        }
        directories
    }
}

/// Everything that connections with public keys share. Nothing is read before one of them asks.
pub(super) struct Store<'a> {
    root: &'a Section<'a>,
    base: PathBuf,
    directories: Directories,
    now: UnixTime,
    keys: OnceCell<Vec<Key>>,
    authorities: OnceCell<Vec<Arc<Certificate>>>,
    crls: OnceCell<Vec<Arc<Crl>>>,
    status_sources: OnceCell<Arc<[StatusSource]>>,
    /// Files that were asked for by name.
    named: RefCell<Vec<PathBuf>>,
}

struct Key {
    path: PathBuf,
    passphrase: Option<Secret>,
    public: PublicKey,
}

/// What was read from a file that the configuration names.
struct Named<T> {
    path: PathBuf,
    span: Range<usize>,
    content: T,
}

/// A certificate, and what follows it in its file.
type Chain = Named<Vec<Arc<Certificate>>>;

impl<'a> Store<'a> {
    pub(super) fn new(root: &'a Section<'a>, base: &Path, directories: Directories) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            root,
            base: base.to_owned(),
            directories,
            now: UnixTime(now),
            keys: OnceCell::new(),
            authorities: OnceCell::new(),
            crls: OnceCell::new(),
            status_sources: OnceCell::new(),
            named: RefCell::default(),
        }
    }

    /// Files that were asked for by name.
    pub(super) fn into_named(self) -> Vec<PathBuf> {
        self.named.into_inner()
    }

    fn problem(&self, path: &Path, problem: &str) {
        self.root.error(self.root.span(), "", format!("`{}` {problem}", path.display()));
    }

    /// Private keys: those that `[secrets.private-NAME]` names, and all others of the directory.
    fn keys(&self) -> &[Key] {
        self.keys.get_or_init(|| {
            let (mut keys, mut named) = (Vec::new(), Vec::new());
            for (name, section) in self.root.named_sections("secrets") {
                if !is_private_key(&name) {
                    continue;
                }
                let Some(file) = section.string("file", "a private key's file") else { continue };
                let path = self.directories.private.join(file.value);
                named.push(path.clone());
                let passphrase = secrets::passphrase(&section);
                match files::private_key(&path, passphrase.as_ref()) {
                    Ok(key) => {
                        if passphrase.is_some() && !files::is_encrypted(&path) {
                            let message = format!("has no use: `{}` is not encrypted", path.display());
                            section.warning(span_of(&section, "secret"), "secret", message);
                        }
                        keys.push(Key { public: key.public().clone(), passphrase, path });
                    }
                    Err(problem) => {
                        section.error(file.span, "file", format!("`{}` {problem}", path.display()));
                    }
                }
            }
            for path in files::files_in(&self.directories.private).unwrap_or_default() {
                if named.contains(&path) {
                    continue;
                }
                match files::private_key(&path, None) {
                    Ok(key) => keys.push(Key { public: key.public().clone(), passphrase: None, path }),
                    Err(problem) => self.problem(&path, &problem),
                }
            }
            self.named.borrow_mut().extend(named);
            keys
        })
    }

    /// Every certificate in `x509ca`.
    fn authorities(&self) -> &[Arc<Certificate>] {
        self.authorities.get_or_init(|| {
            let mut authorities = Vec::new();
            for path in files::files_in(&self.directories.x509ca).unwrap_or_default() {
                match files::certificates(&path) {
                    Ok(certificates) => {
                        for certificate in certificates {
                            self.check_authority(self.root, self.root.span(), "", &path, &certificate);
                            authorities.push(certificate);
                        }
                    }
                    Err(problem) => self.problem(&path, &problem),
                }
            }
            authorities
        })
    }

    fn crls(&self) -> &[Arc<Crl>] {
        self.crls.get_or_init(|| {
            let (crls, problems) = files::crls_in(&self.directories.x509crl);
            for (path, problem) in problems {
                self.problem(&path, &problem);
            }
            crls
        })
    }

    /// `[authorities.NAME]`: where the status of a CA's certificates is to be had.
    pub(super) fn status_sources(&self) -> Arc<[StatusSource]> {
        let read = || {
            self.root.named_sections("authorities").iter().filter_map(|(_, each)| self.source(each)).collect()
        };
        Arc::clone(self.status_sources.get_or_init(read))
    }

    fn source(&self, section: &Section<'_>) -> Option<StatusSource> {
        let file =
            section.string("cacert", "the CA's certificate in `x509ca` or by its path, e.g. \"ca.pem\"");
        let uris = |key| uris(section, key);
        let (ocsp_uris, crl_uris) = (uris("ocsp_uris"), uris("crl_uris"));
        section.finish(&["file", "handle", "slot", "module", "cert_uri_base"]);
        let Some(file) = file else {
            section.missing("cacert", "the certificate of the CA that this is about, e.g. \"ca.pem\"");
            return None;
        };
        let path = self.base.join(&self.directories.x509ca).join(file.value);
        self.named.borrow_mut().push(path.clone());
        let found =
            files::certificates(&path).and_then(|all| all.first().cloned().ok_or("is empty".to_owned()));
        match found {
            Ok(authority) => {
                self.check_authority(section, file.span, "cacert", &path, &authority);
                Some(StatusSource { authority, ocsp_uris, crl_uris })
            }
            Err(problem) => {
                section.error(file.span, "cacert", format!("`{}` {problem}", path.display()));
                None
            }
        }
    }

    /// What is wrong with a CA's certificate whoever it is trusted by.
    fn check_authority(
        &self,
        section: &Section<'_>,
        span: Range<usize>,
        key: &str,
        path: &Path,
        certificate: &Certificate,
    ) {
        if !certificate.is_authority() {
            let message = format!(
                "`{}` holds the certificate of `{}`, which is no CA's (basicConstraints)",
                path.display(),
                certificate.subject()
            );
            section.error(span, key, message);
        } else if let Some(problem) = self.date_problem(certificate) {
            let message = format!(
                "the certificate of the CA `{}` in `{}` {problem}; no peer is accepted by it",
                certificate.subject(),
                path.display()
            );
            section.warning(span, key, message);
        }
    }

    fn date_problem(&self, certificate: &Certificate) -> Option<String> {
        if self.now > certificate.not_after() {
            return Some(format!("expired at {}", certificate.not_after()));
        }
        (self.now < certificate.not_before())
            .then(|| format!("is valid only from {}", certificate.not_before()))
    }

    /// The files of a list of names, with what `read` finds in each; `None` if one cannot be read.
    fn read<T>(
        &self,
        section: &Section<'_>,
        key: &'static str,
        directory: &Path,
        expected: &str,
        read: fn(&Path) -> Result<T, String>,
    ) -> Option<Vec<Named<T>>> {
        let Some(names) = section.strings(key, expected) else {
            return if section.has(key) { None } else { Some(Vec::new()) };
        };
        let read = |name: &Spanned<&str>| {
            let path = self.base.join(directory).join(name.value);
            self.named.borrow_mut().push(path.clone());
            match read(&path) {
                Ok(content) => Some(Named { path, span: name.span.clone(), content }),
                Err(problem) => {
                    section.error(name.span.clone(), key, format!("`{}` {problem}", path.display()));
                    None
                }
            }
        };
        let found: Vec<_> = names.iter().map(read).collect();
        if found.is_empty() {
            section.error(section.span(), key, format!("is empty (expected {expected})"));
            return None;
        }
        found.into_iter().collect()
    }

    /// The private key that belongs to a public one.
    fn private_key(&self, public: &PublicKey) -> Option<PrivateKey> {
        let key = self.keys().iter().find(|key| key.public == *public)?;
        // Read again rather than kept twice: private keys are not copied.
        files::private_key(&key.path, key.passphrase.as_ref()).ok()
    }

    fn no_private_key(&self, path: &Path, public: &PublicKey) -> String {
        let twin = self.keys().iter().find(|key| key.path.file_stem() == path.file_stem());
        let hint = twin.map_or_else(String::new, |key| {
            format!("; `{}` is another key ({})", key.path.display(), key.public.kind())
        });
        format!(
            "`{}` is for an {} key that is not among the {} private key(s) in `{}` and [secrets.private-*]{hint}",
            path.display(),
            public.kind(),
            self.keys().len(),
            self.directories.private.display()
        )
    }

    /// `local` of a connection: our certificates or raw keys.
    pub(super) fn local(
        &self,
        section: &Section<'_>,
        constraint: Constraint,
        id: Option<&Identity>,
    ) -> Option<LocalMethod> {
        const CERTS: &str = "certificates in `x509` or by their paths, e.g. \"gw.pem\"";
        const PUBKEYS: &str = "public keys in `pubkey` or by their paths, e.g. \"gw.pub\"";
        let certs = self.read(section, "certs", &self.directories.x509, CERTS, files::certificates);
        let pubkeys = self.read(section, "pubkeys", &self.directories.pubkey, PUBKEYS, files::public_key);
        let (certs, pubkeys) = (certs?, pubkeys?);
        let mut credentials = Vec::new();
        for Named { path, span, content: chain } in &certs {
            let mut pool: Vec<_> = chain.iter().skip(1).cloned().collect();
            pool.extend_from_slice(self.authorities());
            let Some(leaf) = chain.first() else { continue };
            self.check_own(section, span, path, leaf, id);
            let Some(key) = self.private_key(leaf.key()) else {
                section.error(span.clone(), "certs", self.no_private_key(path, leaf.key()));
                continue;
            };
            match Credential::certified(key, Arc::clone(leaf), &pool) {
                Ok(credential) => {
                    let credential = credential.with_status_sources(self.status_sources());
                    credentials.push(self.usable(section, credential, &constraint));
                }
                Err(error) => section.error(span.clone(), "certs", format!("`{}`: {error}", path.display())),
            }
        }
        for Named { path, span, content: public } in &pubkeys {
            match self.private_key(public) {
                Some(key) => {
                    credentials.push(self.usable(section, Credential::raw(key), &constraint));
                }
                None => section.error(span.clone(), "pubkeys", self.no_private_key(path, public)),
            }
        }
        if certs.is_empty() && pubkeys.is_empty() {
            section.missing("certs", "the certificate that we prove ourselves with, e.g. \"gw.pem\"");
        }
        if credentials.len() > 1 && id.is_none() {
            section.missing("id", "our identity, because there is more than one certificate");
        }
        (!credentials.is_empty()).then_some(LocalMethod::Pubkey { credentials, constraint })
    }

    fn check_own(
        &self,
        section: &Section<'_>,
        span: &Range<usize>,
        path: &Path,
        leaf: &Certificate,
        id: Option<&Identity>,
    ) {
        if let Some(problem) = self.date_problem(leaf) {
            let message = format!("`{}` {problem}; peers will refuse it", path.display());
            section.warning(span.clone(), "certs", message);
        }
        if let Some(id) = id.filter(|id| !leaf.contains(id)) {
            let message = format!(
                "`{id}` is not in the certificate `{}`, which is for {}",
                path.display(),
                names(leaf)
            );
            section.error(span_of(section, "id"), "id", message);
        }
        if id.is_none() && leaf.subject().is_empty() {
            section.missing("id", &format!("one of {}: the certificate has no subject", names(leaf)));
        }
    }

    /// A credential, after a look at whether it may sign at all.
    fn usable(
        &self,
        section: &Section<'_>,
        credential: Credential,
        constraint: &Constraint,
    ) -> Arc<Credential> {
        let announced = portcullis_ike::auth::HashAlgorithm::ANNOUNCED;
        if credential.choose(constraint, &announced).is_err() {
            let kind = credential.key().public().kind();
            let message = format!("\"{constraint}\" leaves nothing that an {kind} key could sign with");
            section.error(span_of(section, "auth"), "auth", message);
        }
        Arc::new(credential)
    }

    /// `remote` of a connection: whom it trusts; `asks_peer`: for OCSP responses too.
    pub(super) fn remote(
        &self,
        section: &Section<'_>,
        constraint: Constraint,
        id: &IdentityMatch,
        asks_peer: bool,
    ) -> Option<RemoteMethod> {
        const CERTS: &str = "certificates in `x509` or by their paths, e.g. \"peer.pem\"";
        const CACERTS: &str = "certificates in `x509ca` or by their paths, e.g. \"ca.pem\"";
        const PUBKEYS: &str = "public keys in `pubkey` or by their paths, e.g. \"peer.pub\"";
        let dirs = &self.directories;
        let certs = self.read(section, "certs", &dirs.x509, CERTS, files::certificates);
        let cacerts = self.read(section, "cacerts", &dirs.x509ca, CACERTS, files::certificates);
        let pubkeys = self.read(section, "pubkeys", &dirs.pubkey, PUBKEYS, files::public_key);
        let choices =
            [("strict", Revocation::Strict), ("ifuri", Revocation::IfUri), ("relaxed", Revocation::Relaxed)];
        let revocation = section.choice("revocation", &choices).unwrap_or_default();
        let (certs, cacerts, pubkeys) = (certs?, cacerts?, pubkeys?);
        if !certs.is_empty() && !cacerts.is_empty() {
            let message =
                "excludes `cacerts`: the certificates that it names need no CA (expected one of the two)";
            section.error(section.span(), "certs", message);
        }
        for Named { path, span, content: certificates } in &cacerts {
            for certificate in certificates {
                self.check_authority(section, span.clone(), "cacerts", path, certificate);
            }
        }
        self.check_pinned(section, &certs, id);
        if !pubkeys.is_empty() && !matches!(id, IdentityMatch::Exactly(_)) {
            section.missing("id", "the peer's identity: a raw public key says nothing of whose it is");
        }
        let authorities = match (cacerts.is_empty(), certs.is_empty() && pubkeys.is_empty()) {
            (false, _) => cacerts.into_iter().flat_map(|named| named.content).collect(),
            (true, true) => self.authorities().to_vec(),
            (true, false) => Vec::new(),
        };
        if authorities.is_empty() && certs.is_empty() && pubkeys.is_empty() {
            let message =
                format!("the CA that vouches for the peer; there is none in `{}`", dirs.x509ca.display());
            section.missing("cacerts", &message);
            return None;
        }
        if !asks_peer {
            self.check_revocation(section, revocation, &authorities);
        }
        Some(RemoteMethod::Pubkey(Arc::new(Trust {
            authorities,
            intermediates: self.authorities().to_vec(),
            certificates: certs.iter().filter_map(|chain| chain.content.first().cloned()).collect(),
            public_keys: pubkeys.into_iter().map(|named| named.content).collect(),
            revocation,
            asks_peer,
            status_sources: self.status_sources(),
            constraint,
        })))
    }

    fn check_pinned(&self, section: &Section<'_>, certs: &[Chain], id: &IdentityMatch) {
        let leaves =
            || certs.iter().filter_map(|chain| Some((&chain.path, &chain.span, chain.content.first()?)));
        for (path, span, leaf) in leaves() {
            if let Some(problem) = self.date_problem(leaf) {
                let message = format!("`{}` {problem}; the peer will be refused", path.display());
                section.warning(span.clone(), "certs", message);
            }
        }
        if let IdentityMatch::Exactly(id) = id
            && !certs.is_empty()
            && !leaves().any(|(_, _, leaf)| leaf.contains(id))
        {
            let known: Vec<String> = leaves().map(|(_, _, leaf)| names(leaf)).collect();
            let message =
                format!("`{id}` is in none of the peer's certificates, which are for {}", known.join("; "));
            section.error(span_of(section, "id"), "id", message);
        }
    }

    /// A peer of unknown status would be refused, for want of CRLs, unless its certificate says where its status is to be had.
    fn check_revocation(
        &self,
        section: &Section<'_>,
        revocation: Revocation,
        authorities: &[Arc<Certificate>],
    ) {
        let crls = self.crls();
        let sources = self.status_sources();
        let is_told = |authority: &&Arc<Certificate>| {
            !sources.iter().any(|source| source.authority.key() == authority.key())
        };
        for authority in authorities.iter().filter(is_told) {
            let own: Vec<_> = crls.iter().filter(|crl| crl.issuer().same(authority.subject())).collect();
            let directory = self.directories.x509crl.display();
            let stale = |crl: &&Arc<Crl>| crl.next_update().is_some_and(|next| next < self.now);
            let what = match (own.is_empty(), own.iter().all(stale)) {
                (true, _) => format!("no CRL of the CA `{}` is in `{directory}`", authority.subject()),
                (false, true) => {
                    format!("the CRLs of the CA `{}` in `{directory}` have expired", authority.subject())
                }
                (false, false) => continue,
            };
            let message = match revocation {
                Revocation::Strict => format!(
                    "\"strict\" refuses every peer whose certificate names neither an OCSP responder nor a CRL: {what}"
                ),
                Revocation::IfUri | Revocation::Relaxed => continue,
            };
            section.warning(span_of(section, "revocation"), "revocation", message);
        }
    }
}

/// A list of what is fetched without TLS, as what comes of it is signed.
fn uris(section: &Section<'_>, key: &'static str) -> Vec<String> {
    let uris = section.strings(key, "URIs, e.g. \"http://ocsp.example.org/\"").unwrap_or_default();
    for uri in uris.iter().filter(|uri| !uri.value.starts_with("http://")) {
        let message =
            format!("\"{}\" is not fetched: only http:// is (what comes from there is signed)", uri.value);
        section.error(uri.span.clone(), key, message);
    }
    uris.iter().map(|uri| uri.value.to_owned()).collect()
}

/// Where a value stands that was read before.
pub(super) fn span_of(section: &Section<'_>, key: &'static str) -> Range<usize> {
    section.string(key, "a text").map_or_else(|| section.span(), |text| text.span)
}

/// Whether an entry of `[secrets]` is a private key's, as swanctl names them.
pub(super) fn is_private_key(name: &str) -> bool {
    name.starts_with("private")
}

fn names(certificate: &Certificate) -> String {
    let names: Vec<String> = certificate.identities().iter().map(|id| format!("`{id}`")).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}
