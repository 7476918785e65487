//! The daemon's side of the admin API.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use portcullis_ike::engine::{Command, Failure};
use tokio::net::UnixListener;

use super::types::{
    ApiError, ChildSa, Drops, IkeSa, PolicyStatus, PoolStatus, RedirectRequest, Reload, Reloaded, Status,
    Target, VerdictReport,
};
use super::{events, trace};
use crate::daemon::{Daemon, ReloadError, Stopping};
use crate::explain::flow::{FlowQuestion, FlowReport};

/// Waited for a command unless the caller says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the admin socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// Another daemon answers there.
    #[error("another daemon listens on {0} (give each its own `gateway.admin_socket`)")]
    InUse(PathBuf),
    /// The file system says no.
    #[error("cannot listen on {path}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Listens on `path`, for root alone. A socket that a dead daemon left is replaced.
pub fn listen(path: &Path) -> Result<UnixListener, AdminSocketError> {
    let failed = |error| AdminSocketError::Io { path: path.to_owned(), error };
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    if path.exists() {
        if is_served(path) {
            return Err(AdminSocketError::InUse(path.to_owned()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Whether a daemon listens on `path`.
pub fn is_served(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_ok()
}

/// Everything that the admin API answers.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/health", get(health))
        .route("/v1/sas", get(sas))
        .route("/v1/drops", get(drops))
        .route("/v1/policies", get(policies))
        .route("/v1/verdicts", get(verdicts))
        .route("/v1/pools", get(pools))
        .route("/v1/initiate", post(initiate))
        .route("/v1/terminate", post(terminate))
        .route("/v1/rekey", post(rekey))
        .route("/v1/reauthenticate", post(reauthenticate))
        .route("/v1/redirect", post(redirect))
        .route("/v1/reload", post(reload))
        .route("/v1/explain/flow", post(explain_flow))
        .route("/v1/events", get(events::follow))
        .route("/v1/trace", post(trace::open))
        .route("/v1/trace/{id}", get(trace::read).delete(trace::close))
        .with_state(daemon)
}

async fn status(State(daemon): State<Arc<Daemon>>) -> Result<Json<Status>, Refusal> {
    Ok(Json(daemon.status().await?))
}

async fn health(State(daemon): State<Arc<Daemon>>) -> Result<Json<()>, Refusal> {
    match daemon.stuck() {
        stuck if stuck.is_empty() => Ok(Json(())),
        stuck => Err(Refusal::Stuck(stuck.join(", "))),
    }
}

async fn sas(State(daemon): State<Arc<Daemon>>) -> Result<Json<Vec<IkeSa>>, Refusal> {
    Ok(Json(daemon.sas().await?))
}

async fn drops(State(daemon): State<Arc<Daemon>>) -> Json<Drops> {
    Json(daemon.drops())
}

async fn policies(State(daemon): State<Arc<Daemon>>) -> Json<Vec<PolicyStatus>> {
    Json(daemon.policies())
}

/// What `GET /v1/verdicts` may be asked for.
#[derive(Debug, serde::Deserialize)]
struct About {
    peer: Option<String>,
}

async fn verdicts(
    State(daemon): State<Arc<Daemon>>,
    Query(about): Query<About>,
) -> Result<Json<Vec<VerdictReport>>, Refusal> {
    Ok(Json(daemon.verdicts(about.peer).await?))
}

async fn pools(State(daemon): State<Arc<Daemon>>) -> Json<Vec<PoolStatus>> {
    Json(daemon.pools())
}

async fn explain_flow(
    State(daemon): State<Arc<Daemon>>,
    Json(question): Json<FlowQuestion>,
) -> Result<Json<FlowReport>, Refusal> {
    if question.src.is_ipv4() != question.dst.is_ipv4() {
        let why = format!("{} and {} are of two families: no packet has both", question.src, question.dst);
        return Err(Refusal::BadRequest(why));
    }
    Ok(Json(daemon.explain(&question)?))
}

async fn initiate(
    State(daemon): State<Arc<Daemon>>,
    Json(target): Json<Target>,
) -> Result<Json<Vec<ChildSa>>, Refusal> {
    daemon.check_target(&target)?;
    let command = Command::Initiate { connection: target.connection.clone(), child: target.child.clone() };
    run(&daemon, command, &target).await?;
    let sas = daemon.sas().await?;
    let ours = sas.into_iter().filter(|ike| ike.connection.as_ref() == Some(&target.connection));
    Ok(Json(ours.flat_map(|ike| ike.children).collect()))
}

async fn terminate(
    State(daemon): State<Arc<Daemon>>,
    Json(target): Json<Target>,
) -> Result<Json<()>, Refusal> {
    daemon.check_target(&target)?;
    let command = Command::Terminate { connection: target.connection.clone(), child: target.child.clone() };
    run(&daemon, command, &target).await?;
    Ok(Json(()))
}

async fn rekey(State(daemon): State<Arc<Daemon>>, Json(target): Json<Target>) -> Result<Json<()>, Refusal> {
    daemon.check_target(&target)?;
    let command = Command::Rekey { connection: target.connection.clone(), child: target.child.clone() };
    run(&daemon, command, &target).await?;
    Ok(Json(()))
}

async fn reauthenticate(
    State(daemon): State<Arc<Daemon>>,
    Json(target): Json<Target>,
) -> Result<Json<()>, Refusal> {
    daemon.check_target(&target)?;
    if target.child.is_some() {
        let why = "an IKE SA is authenticated as a whole: name the connection alone";
        return Err(Refusal::UnknownTarget(why.to_owned()));
    }
    run(&daemon, Command::Reauthenticate { connection: target.connection.clone() }, &target).await?;
    Ok(Json(()))
}

async fn redirect(
    State(daemon): State<Arc<Daemon>>,
    Json(asked): Json<RedirectRequest>,
) -> Result<Json<()>, Refusal> {
    let RedirectRequest { connection, to } = asked;
    let target = Target { connection: connection.clone(), child: None, timeout_seconds: None };
    daemon.check_target(&target)?;
    run(&daemon, Command::Redirect { connection, to }, &target).await?;
    Ok(Json(()))
}

async fn reload(
    State(daemon): State<Arc<Daemon>>,
    Json(asked): Json<Reload>,
) -> Result<Json<Reloaded>, Refusal> {
    Ok(Json(daemon.reload(asked.dry_run).await?))
}

async fn run(daemon: &Daemon, command: Command, target: &Target) -> Result<(), Refusal> {
    let timeout = target.timeout_seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    match tokio::time::timeout(timeout, daemon.command(command)).await {
        Ok(result) => Ok(result??),
        Err(_) => Err(Refusal::Timeout(timeout)),
    }
}

/// Every answer but 200.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The daemon is stopping.
    #[error(transparent)]
    Stopping(#[from] Stopping),
    /// A thread that must live does not answer.
    #[error("no answer from {0}; under systemd the watchdog restarts the daemon")]
    Stuck(String),
    /// The exchange failed.
    #[error("{}", .0.in_one_line())]
    Failed(Box<Failure>),
    /// Not configured.
    #[error("{0}")]
    UnknownTarget(String),
    /// The configuration on disk was not put in force.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// No such session, or no longer.
    #[error("this trace has ended: nobody has read it for a while, or the daemon was restarted")]
    NoSuchTrace,
    /// As many as there may be.
    #[error("too many traces and captures run already")]
    TooManyTraces,
    /// As many as there may be.
    #[error("too many read events already, or the daemon is stopping")]
    TooManyReaders,
    /// Words that are no filter, or addresses that are no packet's.
    #[error("{0}")]
    BadRequest(String),
    /// What ESP protects is not shown to everybody who may ask.
    #[error(
        "this configuration lets nobody see what ESP protects (set `allow_decrypted_capture = true` in `[gateway]`)"
    )]
    NotAllowed,
    /// Not done in time.
    #[error("not done after {} s; the attempt goes on: see `portcullis sas`", .0.as_secs())]
    Timeout(Duration),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = match &self {
            Self::Stopping(_) => (StatusCode::SERVICE_UNAVAILABLE, "STOPPING"),
            Self::Stuck(_) => (StatusCode::SERVICE_UNAVAILABLE, "STUCK"),
            Self::Failed(failure) => (StatusCode::CONFLICT, failure.code()),
            Self::UnknownTarget(_) => (StatusCode::NOT_FOUND, "NO_SUCH_CONNECTION"),
            Self::Reload(ReloadError::Stopping(_)) => (StatusCode::SERVICE_UNAVAILABLE, "STOPPING"),
            Self::Reload(ReloadError::NeedsRestart(_)) => (StatusCode::CONFLICT, "NEEDS_RESTART"),
            Self::Reload(_) => (StatusCode::CONFLICT, "CONFIGURATION_REFUSED"),
            Self::NoSuchTrace => (StatusCode::NOT_FOUND, "NO_SUCH_TRACE"),
            Self::TooManyTraces => (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_TRACES"),
            Self::TooManyReaders => (StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_READERS"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "BAD_REQUEST"),
            Self::NotAllowed => (StatusCode::FORBIDDEN, "DECRYPTED_CAPTURE_NOT_ALLOWED"),
            Self::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "TIMEOUT"),
        };
        let explanation = self.to_string();
        let verdict = match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        };
        let error = ApiError { code: code.to_owned(), explanation, verdict };
        (status, Json(error)).into_response()
    }
}
