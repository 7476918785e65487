//! CRLs by HTTP (RFC 5280 §4.2.1.13): each is asked for once however many wait for it, and kept until its next one is
//! promised. What cannot be had is not asked for again for a minute, so that a dead server does not hold up every peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_ike::auth::Crl;

use super::http;

/// Until what could not be had is asked for again.
const REST: Duration = Duration::from_secs(60);
/// The longest that one is kept, whatever it promises.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// URIs that are remembered. Only CAs that are trusted here name any.
const MAX_URIS: usize = 1024;

/// CRLs by URI.
#[derive(Default)]
pub(super) struct Fetched(Mutex<HashMap<String, Arc<Mutex<Option<Kept>>>>>);

/// What was had, and until when it is not asked for again.
struct Kept {
    what: Result<Arc<Crl>, String>,
    until: Instant,
}

impl Fetched {
    /// The CRL at a URI; `tell` hears of it if it was fetched. Blocks while it is, on a thread of the runtime that may block.
    pub(super) fn get(
        &self,
        uri: &str,
        tell: impl FnOnce(&Result<Arc<Crl>, String>),
    ) -> Result<Arc<Crl>, String> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if slots.len() >= MAX_URIS && !slots.contains_key(uri) {
                slots.clear();
            }
            Arc::clone(slots.entry(uri.to_owned()).or_default())
        };
        // Whoever else wants it waits here.
        let mut kept = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| Instant::now() < kept.until) {
            return kept.what.clone();
        }
        let what = fetch(uri).map(Arc::new);
        match &what {
            Ok(crl) => tracing::info!(%uri, issuer = %crl.issuer(), "a CRL was fetched"),
            Err(why) => tracing::warn!(%uri, %why, "a CRL cannot be fetched"),
        }
        tell(&what);
        let until = Instant::now() + what.as_ref().map_or(REST, |crl| lifetime(crl, SystemTime::now()));
        *kept = Some(Kept { what: what.clone(), until });
        what
    }
}

/// How long a CRL is kept.
fn lifetime(crl: &Crl, now: SystemTime) -> Duration {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let left = crl.next_update().map_or(LONGEST, |next| Duration::from_secs(next.0.saturating_sub(now)));
    left.clamp(REST, LONGEST)
}

fn fetch(uri: &str) -> Result<Crl, String> {
    Crl::from_der(&http::get(uri)?).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn crl() -> Vec<u8> {
        let (mut params, key) = (rcgen::CertificateParams::default(), rcgen::KeyPair::generate().unwrap());
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: 1_u64.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&rcgen::Issuer::from_params(&params, &key)).unwrap().der().to_vec()
    }

    /// A server that answers everything with this, and how often it was asked.
    async fn server(status: &'static str, body: Vec<u8>) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/root.crl", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let mut request = [0; 1024];
                let len = stream.read(&mut request).await.unwrap();
                assert!(request[..len].starts_with(b"GET /root.crl HTTP/1.1\r\n"));
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
            }
        });
        (uri, asked)
    }

    async fn ask(fetched: &Arc<Fetched>, uri: &str) -> Result<Arc<Crl>, String> {
        let (fetched, uri) = (Arc::clone(fetched), uri.to_owned());
        tokio::task::spawn_blocking(move || fetched.get(&uri, |_| {})).await.unwrap()
    }

    #[tokio::test]
    async fn a_crl_is_fetched_once_however_many_want_it() {
        let (uri, asked) = server("200 OK", crl()).await;
        let fetched = Arc::new(Fetched::default());
        let all: Vec<_> = (0..5)
            .map(|_| {
                let (fetched, uri) = (Arc::clone(&fetched), uri.clone());
                tokio::spawn(async move { ask(&fetched, &uri).await })
            })
            .collect();
        for one in all {
            assert!(one.await.unwrap().is_ok());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_named_and_left_alone_for_a_while() {
        let fetched = Arc::new(Fetched::default());
        let (missing, asked) = server("404 Not Found", Vec::new()).await;
        for _ in 0..3 {
            let why = ask(&fetched, &missing).await.unwrap_err();
            assert!(why.contains("404"), "{why}");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let (nonsense, _) = server("200 OK", b"nonsense".to_vec()).await;
        assert!(ask(&fetched, &nonsense).await.unwrap_err().contains("not an X.509 CRL"));
        for (uri, said) in
            [("ldap://x/y", "only http"), ("http:///y", ""), ("http://127.0.0.1:1/", "refused")]
        {
            let why = ask(&fetched, uri).await.unwrap_err();
            assert!(why.contains(said), "{uri}: {why}");
        }
    }

    #[test]
    fn a_crl_is_kept_until_the_next_is_promised_but_no_longer_than_a_day() {
        let crl = Crl::from_der(&crl()).unwrap();
        let next = UNIX_EPOCH + Duration::from_secs(crl.next_update().unwrap().0);
        assert_eq!(lifetime(&crl, next - Duration::from_secs(3600)), Duration::from_secs(3600));
        assert_eq!(lifetime(&crl, next - LONGEST * 10), LONGEST);
        assert_eq!(lifetime(&crl, next + Duration::from_secs(9)), REST);
    }
}
