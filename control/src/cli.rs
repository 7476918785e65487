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
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use zeroize::Zeroizing;

use crate::api::client::{Client, ClientError};
use crate::api::types::{
    ChildSa, Drops, IkeSa, PolicyStatus, PoolStatus, RedirectRequest, Reload, Reloaded, Status, Target,
    VerdictReport,
};
use crate::config::{Config, ConfigError, DEFAULT_ADMIN_SOCKET, Diagnostic, reference};
use crate::daemon;
use crate::hooks::runner;
use crate::logging::{self, LogFormat};

/// Where to begin, and the order in which it is usually needed.
const FIRST_STEPS: &str = "\
First steps:
  portcullis pki ca; portcullis pki server gw.example    certificates
  portcullis check; portcullis doctor                    before it starts
  systemctl start portcullis; portcullis status          it runs
  portcullis initiate NAME; portcullis sas               the tunnel is up
  portcullis explain peer NAME                           or why it is not

Exit codes: 0 done, 1 not done (the reason is on standard error), 2 a mistake in the command line.";

/// Portcullis, a kernel-bypass IPsec gateway.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = FIRST_STEPS)]
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
        /// How the log looks [default: journal under systemd, else text]. `RUST_LOG` chooses what is in it.
        #[arg(long, value_enum, value_name = "FORMAT")]
        log_format: Option<LogFormat>,
    },
    /// Check a configuration, reporting every error with its place.
    Check {
        /// The configuration.
        #[arg(value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
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
    /// Why it does not work, and what to change.
    ///
    /// The last failure, a peer's, what a reason code means, where a packet would stop, what a capture shows.
    Explain(explain::ExplainArgs),
    /// Ask a live IKE responder what it accepts.
    ///
    /// Prints a configuration that would match.
    Probe(probe::ProbeArgs),
    /// A live view: throughput, tunnels, load, drops, failures.
    Top(top::TopArgs),
    /// Follow packets, a line each.
    ///
    /// Received on, policy, SA, verdict, sent on. Costs something only while it runs.
    Trace(trace::TraceArgs),
    /// Write packets to a pcapng file, inner and outer form linked.
    Capture(trace::CaptureArgs),
    /// Follow what happens, a line each.
    ///
    /// SAs up, rekeyed, moved and down, addresses, failures, reloads.
    Events(events::EventsArgs),
    /// Look at the machine before traffic does, with fixes.
    Doctor(doctor::DoctorArgs),
    /// Make a configuration of a strongSwan or libreswan setup.
    ///
    /// Names what could not be carried over.
    Import(import::ImportArgs),
    /// A small certificate authority.
    ///
    /// For a first tunnel with certificates it takes `ca`, `server` and `client`.
    Pki(pki::PkiArgs),
    /// Runs `updown` hooks for the daemon, which starts it.
    #[command(hide = true)]
    HookRunner {
        /// How many at once.
        #[arg(long)]
        at_once: usize,
    },
    /// Print what a shell needs to complete commands.
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
    /// Emergency exit: let protected traffic pass in clear.
    ///
    /// Takes the XDP program, the egress guard and the protected routes away. The daemon must not be running.
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
    /// Print every table and key, as Markdown.
    ///
    /// What it takes, its default, and what it is for.
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
    /// Whether all lives that must: exit code 0 or 1, for probes.
    Health,
    /// IKE and CHILD SAs, as `swanctl --list-sas` shows them.
    Sas(SasArgs),
    /// Dropped packets by reason.
    Drops(Format),
    /// Policies in force, and what each has carried and dropped.
    Policies(Format),
    /// Address pools: how full they are, and whose each address is.
    Pools(PoolsArgs),
    /// Bring up a connection or child, and wait until it is up.
    Initiate {
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Close a connection or child.
    Terminate(TargetArgs),
    /// Put the configuration on disk in force, whole or not at all.
    ///
    /// What did not change is left alone.
    Reload {
        /// Only print what would change.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Rekey a connection's IKE SAs, or a child's CHILD SAs.
    ///
    /// Does not wait: see `portcullis sas`.
    Rekey(TargetArgs),
    /// Make a connection's IKE SAs anew, then close the old ones.
    ///
    /// A peer that began one is asked to. Does not wait.
    Reauthenticate(TargetArgs),
    /// Send a connection's clients to another gateway (RFC 5685).
    ///
    /// Those that do not go are put out after a while.
    Redirect {
        /// Name of the connection.
        connection: String,
        /// Address of the other gateway.
        #[arg(value_parser = address)]
        address: IpAddr,
    },
}

/// An address of the command line.
fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "it is no IP address, and names are not resolved here".to_owned())
}

#[derive(Debug, Clone, Copy, Args)]
struct Format {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SasArgs {
    /// Only those of one connection.
    #[arg(value_name = "CONNECTION")]
    connection: Option<String>,
    /// A line for each tunnel.
    #[arg(long, conflicts_with = "json")]
    brief: bool,
    #[command(flatten)]
    format: Format,
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
        Command::HookRunner { at_once } => {
            runner::run(at_once).map(|()| ExitCode::SUCCESS).map_err(Into::into)
        }
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

fn run(path: &Path, log_format: Option<LogFormat>) -> anyhow::Result<ExitCode> {
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
        Ask::Sas(SasArgs { connection, brief, format }) => {
            let mut sas: Vec<IkeSa> = client.get("/v1/sas").await?;
            if let Some(name) = connection {
                sas.retain(|sa| sa.connection.as_ref() == Some(&name));
                if sas.is_empty() {
                    // Refuses a name that there is not.
                    let _: Vec<VerdictReport> = client.get(&explain::verdicts_about(&name)).await?;
                }
            }
            match (format.json, brief) {
                (true, _) => json(&sas),
                (false, true) => Ok(print::sas_in_brief(&sas)),
                (false, false) => Ok(print::sas(&sas)),
            }
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
        Ask::Initiate { target, format } => {
            let target = target.target();
            let children: Vec<ChildSa> = client.post("/v1/initiate", &target).await?;
            if format.json { json(&children) } else { Ok(print::established(&target.connection, &children)) }
        }
        Ask::Terminate(args) => {
            let () = client.post("/v1/terminate", &args.target()).await?;
            Ok("closed\n".to_owned())
        }
        Ask::Reload { dry_run, format } => {
            let done: Reloaded = client.post("/v1/reload", &Reload { dry_run }).await?;
            if format.json { json(&done) } else { Ok(print::reloaded(&done)) }
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
    fn lists_of_commands_fit_a_terminal() {
        fn check(command: &mut clap::Command) {
            let help = command.render_help().to_string();
            let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
            for line in commands.take_while(|line| !line.is_empty()) {
                assert!(line.chars().count() <= 80, "{line}");
            }
            command.get_subcommands_mut().for_each(check);
        }
        check(&mut Cli::command());
        assert!(FIRST_STEPS.lines().all(|line| line.len() <= 100));
        assert!(
            Cli::command().render_help().to_string().starts_with("Portcullis, a kernel-bypass IPsec gateway")
        );
    }

    #[test]
    fn detach_wants_the_danger_spelt_out() {
        assert!(Cli::try_parse_from(["portcullis", "detach"]).is_err());
        assert!(Cli::try_parse_from(["portcullis", "detach", "--open"]).is_ok());
    }
}
