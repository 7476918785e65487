//! The command line: `portcullis run`, `check`, and what asks a running daemon.

mod doctor;
mod events;
mod explain;
mod explain_flow;
mod import;
mod pki;
mod print;
mod probe;
mod top;
mod trace;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use zeroize::Zeroizing;

use crate::api::client::{Client, ClientError};
use crate::api::types::{
    ChildSa, Drops, IkeSa, PolicyStatus, PoolStatus, RedirectRequest, Reload, Reloaded, Status, Target,
};
use crate::config::{Config, ConfigError, DEFAULT_ADMIN_SOCKET, Diagnostic, reference};
use crate::daemon;
use crate::logging::{self, LogFormat};

/// Portcullis, a kernel-bypass IPsec gateway.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, about)]
pub struct Cli {
    /// The daemon's admin socket.
    #[arg(long, global = true, default_value = DEFAULT_ADMIN_SOCKET, value_name = "PATH")]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the foreground.
    Run {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
        config: PathBuf,
        /// How lines of the log look. `RUST_LOG` chooses which there are.
        #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
        log_format: LogFormat,
    },
    /// Check a configuration whole, reporting every error with its place.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Exit with 3 if there are warnings. Without, they are printed and the exit code is 0.
        #[arg(long)]
        strict: bool,
    },
    /// About the configuration's format.
    Config {
        #[command(subcommand)]
        what: ConfigCommand,
    },
    /// Ask the running daemon.
    #[command(flatten)]
    Ask(Ask),
    /// Why it does not work, and what to change: the last failure, a peer's, a reason code.
    Explain(explain::ExplainArgs),
    /// Ask a live IKE responder what it accepts, and print a configuration that would match.
    Probe(probe::ProbeArgs),
    /// A live view: throughput, tunnels, workers' load, drops, recent failures.
    Top(top::TopArgs),
    /// Follow packets: received on, policy, SA, verdict, sent on, a line each. Costs something only while it runs.
    Trace(trace::TraceArgs),
    /// Write packets to a pcapng file, each with its inner and outer form linked.
    Capture(trace::CaptureArgs),
    /// Follow what happens, a line each: SAs up, rekeyed, moved and down, addresses, failures, reloads.
    Events(events::EventsArgs),
    /// Look at the machine before traffic does: every finding with its fix.
    Doctor(doctor::DoctorArgs),
    /// Make a configuration of an existing strongSwan or libreswan setup, and name what could not be carried over.
    Import(import::ImportArgs),
    /// A small certificate authority: for a first tunnel with certificates it takes `ca`, `server` and `client`.
    Pki(pki::PkiArgs),
    /// Print what a shell needs to complete this command line.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual pages, one for each command.
    Man {
        /// Where to; made if it is not there.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Take the XDP program, the egress guard and the protected routes away. The daemon must not be running.
    Detach {
        /// Say that protected traffic may leave in clear from now on.
        #[arg(long, required = true)]
        open: bool,
        /// The configuration that the daemon ran with.
        #[arg(long, value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
        config: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every table and key: what it takes, its default, and what it is for, as Markdown.
    Reference {
        /// Only the keys whose names have this, e.g. `dpd` or `gateway.`.
        #[arg(value_name = "WORD")]
        word: Option<String>,
    },
}

/// What asks a running daemon.
#[derive(Debug, Subcommand)]
enum Ask {
    /// How the daemon is: interfaces, packets, recent failures.
    Status(Format),
    /// Whether everything lives that must: exit code 0 or 1, for probes.
    Health,
    /// IKE and CHILD SAs, as `swanctl --list-sas` shows them.
    Sas(Format),
    /// Dropped packets by reason.
    Drops(Format),
    /// Policies in force, and what each has carried and dropped.
    Policies(Format),
    /// Address pools: how full they are; with `--leases` also whose each address is.
    Pools(PoolsArgs),
    /// Bring up a connection, or one of its children, and wait until it is up.
    Initiate(TargetArgs),
    /// Close a connection, or one of its children.
    Terminate(TargetArgs),
    /// Put the configuration on disk in force, whole or not at all; what did not change is left alone.
    Reload {
        /// Only print what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Rekey the IKE SAs of a connection, or the CHILD SAs of one of its children. Does not wait: see `portcullis sas`.
    Rekey(TargetArgs),
    /// Make the IKE SAs of a connection anew, then close the old ones; a peer that began one is asked to. Does not wait.
    Reauthenticate(TargetArgs),
    /// Send the clients of a connection to another gateway (RFC 5685); those that do not go are put out after a while.
    Redirect {
        /// Name of the connection.
        connection: String,
        /// Address of the other gateway.
        address: std::net::IpAddr,
    },
}

#[derive(Debug, Clone, Copy, Args)]
struct Format {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct PoolsArgs {
    /// List every lease.
    #[arg(long)]
    leases: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// CONNECTION or CONNECTION/CHILD.
    #[arg(value_name = "CONNECTION[/CHILD]")]
    target: String,
    /// Wait so long at most.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

impl TargetArgs {
    fn target(self) -> Target {
        let (connection, child) = match self.target.split_once('/') {
            Some((connection, child)) => (connection.to_owned(), Some(child.to_owned())),
            None => (self.target, None),
        };
        Target { connection, child, timeout_seconds: self.timeout }
    }
}

/// Runs the command line and says how the process should end.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run { config, log_format } => run(&config, log_format),
        Command::Check { file, strict } => check(&file, strict),
        Command::Config { what: ConfigCommand::Reference { word } } => config_reference(word.as_deref()),
        Command::Detach { open: _, config } => detach(&config),
        Command::Completions { shell } => completions(shell),
        Command::Man { dir } => man(&dir),
        Command::Doctor(args) => doctor::run(&args),
        Command::Import(args) => import::run(args).map(|()| ExitCode::SUCCESS),
        Command::Pki(args) => pki::run(args).map(|()| ExitCode::SUCCESS),
        Command::Explain(args) => explain::run(&Client::new(&cli.socket), args).map(|()| ExitCode::SUCCESS),
        Command::Trace(args) => trace::trace(&Client::new(&cli.socket), &args).map(|()| ExitCode::SUCCESS),
        Command::Events(args) => events::run(&Client::new(&cli.socket), &args).map(|()| ExitCode::SUCCESS),
        Command::Capture(args) => {
            trace::capture(&Client::new(&cli.socket), &args).map(|()| ExitCode::SUCCESS)
        }
        Command::Probe(args) => probe::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Top(args) => top::run(&Client::new(&cli.socket), &args).map(|()| ExitCode::SUCCESS),
        Command::Ask(question) => ask(&Client::new(&cli.socket), question),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn report(error: &anyhow::Error) {
    if let Some(ConfigError::Invalid { findings, .. }) = error.downcast_ref() {
        for finding in findings {
            eprintln!("{finding}");
        }
    }
    match error.downcast_ref().and_then(explain::of_error) {
        Some(verdict) => eprint!("{verdict}"),
        None => eprintln!("portcullis: {error:#}"),
    }
}

fn run(path: &Path, log_format: LogFormat) -> anyhow::Result<ExitCode> {
    logging::init(log_format);
    let (config, text) = load(path)?;
    daemon::run(config, path, text)?;
    Ok(ExitCode::SUCCESS)
}

/// Of `check --strict`: valid, but with warnings.
const WARNED: u8 = 3;

fn check(path: &Path, strict: bool) -> anyhow::Result<ExitCode> {
    let (config, warnings) = Config::lint(path)?;
    print_warnings(path, &warnings);
    let children: usize = config.engine.connections.iter().map(|connection| connection.children.len()).sum();
    let connections = config.engine.connections.len();
    print(&format!("{}: valid (connections: {connections}, children: {children})\n", path.display()))?;
    Ok(if strict && !warnings.is_empty() { ExitCode::from(WARNED) } else { ExitCode::SUCCESS })
}

fn config_reference(word: Option<&str>) -> anyhow::Result<ExitCode> {
    let page = reference::page(word);
    if page.is_empty() {
        anyhow::bail!(
            "no key's name has `{}` in it (`portcullis config reference` prints all)",
            word.unwrap_or_default()
        );
    }
    print(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// Loads a configuration, with its text, and prints its warnings.
fn load(path: &Path) -> anyhow::Result<(Config, Zeroizing<String>)> {
    let (config, warnings, text) = Config::load_text(path)?;
    print_warnings(path, &warnings);
    Ok((config, text))
}

fn print_warnings(path: &Path, warnings: &[Diagnostic]) {
    for warning in warnings {
        eprintln!("{}:{warning}", path.display());
    }
}

/// For bash, zsh and fish as packages install them.
fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut text);
    print(&String::from_utf8_lossy(&text))?;
    Ok(ExitCode::SUCCESS)
}

fn man(dir: &Path) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("cannot write manual pages to {}", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn detach(path: &Path) -> anyhow::Result<ExitCode> {
    daemon::detach_open(&Config::load_gateway(path)?.0)?;
    print("detached: protected traffic may now leave in clear\n")?;
    Ok(ExitCode::SUCCESS)
}

fn ask(client: &Client, question: Ask) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(answer(client, question))?;
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn answer(client: &Client, question: Ask) -> Result<String, ClientError> {
    match question {
        Ask::Status(format) => {
            let status: Status = client.get("/v1/status").await?;
            if format.json { json(&status) } else { Ok(print::status(&status)) }
        }
        Ask::Health => {
            let () = client.get("/v1/health").await?;
            Ok("alive\n".to_owned())
        }
        Ask::Sas(format) => {
            let sas: Vec<IkeSa> = client.get("/v1/sas").await?;
            if format.json { json(&sas) } else { Ok(print::sas(&sas)) }
        }
        Ask::Drops(format) => {
            let drops: Drops = client.get("/v1/drops").await?;
            if format.json { json(&drops) } else { Ok(print::drops(&drops)) }
        }
        Ask::Policies(format) => {
            let policies: Vec<PolicyStatus> = client.get("/v1/policies").await?;
            if format.json { json(&policies) } else { Ok(print::policies(&policies)) }
        }
        Ask::Pools(args) => {
            let pools: Vec<PoolStatus> = client.get("/v1/pools").await?;
            if args.format.json { json(&pools) } else { Ok(print::pools(&pools, args.leases)) }
        }
        Ask::Initiate(args) => {
            let children: Vec<ChildSa> = client.post("/v1/initiate", &args.target()).await?;
            Ok(print::established(&children))
        }
        Ask::Terminate(args) => {
            let () = client.post("/v1/terminate", &args.target()).await?;
            Ok("closed\n".to_owned())
        }
        Ask::Reload { dry_run } => {
            let done: Reloaded = client.post("/v1/reload", &Reload { dry_run }).await?;
            Ok(print::reloaded(&done))
        }
        Ask::Rekey(args) => {
            let () = client.post("/v1/rekey", &args.target()).await?;
            Ok("rekeying\n".to_owned())
        }
        Ask::Reauthenticate(args) => {
            let () = client.post("/v1/reauthenticate", &args.target()).await?;
            Ok("reauthenticating\n".to_owned())
        }
        Ask::Redirect { connection, address } => {
            let () = client.post("/v1/redirect", &RedirectRequest { connection, to: address }).await?;
            Ok(format!("sending clients to {address}\n"))
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, ClientError> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// To standard output; a reader that has gone (`| head`) is no error.
fn print(text: &str) -> std::io::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_target_names_a_connection_or_one_child() {
        let target = |text: &str| TargetArgs { target: text.to_owned(), timeout: None }.target();
        assert_eq!((target("site").connection.as_str(), target("site").child), ("site", None));
        assert_eq!(
            (target("site/net").connection.as_str(), target("site/net").child),
            ("site", Some("net".to_owned()))
        );
    }

    #[test]
    fn detach_wants_the_danger_spelt_out() {
        assert!(Cli::try_parse_from(["portcullis", "detach"]).is_err());
        assert!(Cli::try_parse_from(["portcullis", "detach", "--open"]).is_ok());
    }
}
