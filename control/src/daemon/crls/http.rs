//! One request by HTTP, for what tells of revocation.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long an answer is waited for, from the name to the last octet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Octets of the largest answer that is taken.
const MAX_LEN: usize = 16 * 1024 * 1024;

/// What is at a URI. Blocks, on a thread of the runtime that may block.
pub(super) fn get(uri: &str) -> Result<Bytes, String> {
    perform(uri, None)
}

/// What a URI answers to content of a type. Blocks likewise.
pub(super) fn post(uri: &str, content_type: &'static str, content: Vec<u8>) -> Result<Bytes, String> {
    perform(uri, Some((content_type, content)))
}

fn perform(uri: &str, content: Option<(&'static str, Vec<u8>)>) -> Result<Bytes, String> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|error| error.to_string())?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, send(uri, content)).await });
    answer.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?
}

async fn send(uri: &str, content: Option<(&'static str, Vec<u8>)>) -> Result<Bytes, String> {
    let uri: Uri = uri.parse().map_err(|error| format!("{error}"))?;
    if uri.scheme_str() != Some("http") {
        return Err("only http:// is fetched".to_owned());
    }
    let host = uri.host().ok_or("it names no host")?;
    let port = uri.port_u16().unwrap_or(80);
    // An IPv6 address stands in brackets.
    let address = (host.trim_start_matches('[').trim_end_matches(']'), port);
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let broken = |error: hyper::Error| error.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(connection);
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let (method, content_type, content) = match content {
        None => (Method::GET, None, Vec::new()),
        Some((content_type, content)) => (Method::POST, Some(content_type), content),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close");
    if let Some(content_type) = content_type {
        request = request.header(header::CONTENT_TYPE, content_type);
    }
    let request = request.body(Full::new(Bytes::from(content))).map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let answer = match response.status() {
        StatusCode::OK => Limited::new(response.into_body(), MAX_LEN)
            .collect()
            .await
            .map(|body| body.to_bytes())
            .map_err(|error| error.to_string()),
        other => Err(format!("the server answered {other}")),
    };
    driver.abort();
    answer
}
