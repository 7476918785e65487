//! The CLI's side of the admin API.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::ApiError;

/// Why a call of the admin API failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or only to others.
    #[error("cannot reach the daemon at {path}: {}", unreachable(error))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The daemon went away, or does not speak HTTP.
    #[error("the daemon at {path} broke off: {error}")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        error: hyper::Error,
    },
    /// The answer is not what this version understands.
    #[error("the daemon's answer is not understood: {0} (is it of another version?)")]
    Answer(#[from] serde_json::Error),
    /// The daemon says no.
    #[error("{}: {}", .0.code, .0.explanation)]
    Refused(ApiError),
}

/// Why it cannot be reached, and what to do about it.
fn unreachable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "it is not running (`systemctl start portcullis` starts it), or listens elsewhere (--socket)"
                .to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "only root and the daemon's own user may use this socket (try it with sudo)".to_owned()
        }
        _ => error.to_string(),
    }
}

/// A caller of one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A caller of the daemon that listens on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Asks for a resource.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Asks for something to be done.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, serde_json::to_vec(body)?.into()).await
    }

    /// Ends something.
    pub async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.call(Method::DELETE, path, Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let broken = |error| ClientError::Broken { path: self.socket.clone(), error };
        Ok(serde_json::from_slice(&response.into_body().collect().await.map_err(broken)?.to_bytes())?)
    }

    /// Asks for something that goes on, a JSON object a line.
    pub async fn follow(&self, path: &str) -> Result<Lines, ClientError> {
        let body = self.send(Method::GET, path, Bytes::new()).await?.into_body();
        Ok(Lines { socket: self.socket.clone(), body, read: Vec::new() })
    }

    /// The answer, if it is not a refusal.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |error| ClientError::Unreachable { path: self.socket.clone(), error };
        let broken = |error| ClientError::Broken { path: self.socket.clone(), error };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "portcullis")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| unreachable(std::io::Error::other(error)))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        // What axum itself answers (404, 422) is text.
        Err(ClientError::Refused(serde_json::from_slice(&body).unwrap_or_else(|_| ApiError {
            code: format!("HTTP_{}", status.as_u16()),
            explanation: String::from_utf8_lossy(&body).into_owned(),
            verdict: None,
        })))
    }
}

/// The lines of an answer that goes on.
#[derive(Debug)]
pub struct Lines {
    socket: PathBuf,
    body: Incoming,
    /// What has come and was not taken yet.
    read: Vec<u8>,
}

impl Lines {
    /// The next line, without its end; `None`: the daemon has ended the answer.
    ///
    /// # Errors
    /// [`ClientError::Broken`] if the daemon went away.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.read.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| ClientError::Broken { path: self.socket.clone(), error })?;
            self.read.extend(frame.into_data().unwrap_or_default());
        }
    }
}
