//! `portcullis pki`: the arguments, and what is printed.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::print;
use crate::pki::{
    AltName, Authority, Issue, Issued, KeyKind, NewAuthority, PkiError, Profile, Revocation, Written,
};

const DEFAULT_DIR: &str = "/etc/portcullis/pki";

/// `portcullis pki …`.
#[derive(Debug, Args)]
pub(super) struct PkiArgs {
    /// Directory of the CA.
    #[arg(long, global = true, default_value = DEFAULT_DIR, value_name = "DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make a certificate authority.
    Ca {
        /// Its common name.
        #[arg(long, default_value = "Portcullis CA")]
        name: String,
        /// Algorithm of its key.
        #[arg(long, value_enum, default_value = "ecdsa-p384")]
        key: KeyKind,
        /// Days that it is valid.
        #[arg(long, default_value_t = 3650)]
        days: u32,
        /// URL at which peers will find the revocation list, written into every certificate.
        #[arg(long, value_name = "URL")]
        crl_url: Option<String>,
        /// Replace the CA that is there, and forget what it issued.
        #[arg(long)]
        force: bool,
    },
    /// Make key and certificate of a gateway.
    Server {
        #[command(flatten)]
        end: End,
        /// Days that it is valid.
        #[arg(long, default_value_t = 730)]
        days: u32,
    },
    /// Make key and certificate of a user or a branch office.
    Client {
        #[command(flatten)]
        end: End,
        /// Days that it is valid.
        #[arg(long, default_value_t = 365)]
        days: u32,
    },
    /// List what was issued.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a certificate, and sign a new revocation list.
    Revoke {
        /// Serial number, name, or file of the certificate.
        #[arg(value_name = "CERTIFICATE")]
        certificate: String,
        /// Why.
        #[arg(long, value_enum, default_value = "unspecified")]
        reason: Revocation,
        /// Days that the new revocation list is valid.
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Sign a new revocation list, which must happen before the last one ends.
    Crl {
        /// Days that it is valid.
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
}

#[derive(Debug, Args)]
struct End {
    /// Names: domain names, addresses or user@domain. The first one names the files.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<AltName>,
    /// Algorithm of its key.
    #[arg(long, value_enum, default_value = "ecdsa-p256")]
    key: KeyKind,
    /// Make a PKCS#12 bundle too, for the import dialogues of phones and desktops.
    #[arg(long)]
    p12: bool,
    /// File with the bundle's password. Without it one is made up and written beside the bundle.
    #[arg(long, value_name = "FILE", requires = "p12")]
    password_file: Option<PathBuf>,
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
}

impl End {
    fn issue(self, profile: Profile, days: u32) -> Issue {
        Issue {
            profile,
            names: self.names,
            key: self.key,
            days,
            bundle: self.p12,
            password_file: self.password_file,
            replace: self.force,
        }
    }
}

/// Validity of the revocation list that a new CA begins with.
const FIRST_CRL_DAYS: u32 = 30;

/// Does it, and says what was written.
pub(super) fn run(args: PkiArgs) -> anyhow::Result<()> {
    let dir = args.dir;
    let text = match args.command {
        PkiCommand::Ca { name, key, days, crl_url, force } => {
            let new = NewAuthority { name, key, days, crl_days: FIRST_CRL_DAYS.min(days), crl_url };
            files(&Authority::create(&dir, &new, force)?)
        }
        PkiCommand::Server { end, days } => {
            issued(&Authority::open(&dir)?.issue(&end.issue(Profile::Server, days))?)
        }
        PkiCommand::Client { end, days } => {
            issued(&Authority::open(&dir)?.issue(&end.issue(Profile::Client, days))?)
        }
        PkiCommand::List { json } => list(&Authority::open(&dir)?, json)?,
        PkiCommand::Revoke { certificate, reason, days } => {
            let (entry, list) = Authority::open(&dir)?.revoke(&certificate, reason, days)?;
            format!("revoked `{}`, serial {}\n{}", entry.name, entry.serial, files(&[list]))
        }
        PkiCommand::Crl { days } => files(&[Authority::open(&dir)?.sign_revocation_list(days)?]),
    };
    Ok(print(&text)?)
}

fn files(files: &[Written]) -> String {
    files.iter().fold(String::new(), |mut text, file| {
        let _ = writeln!(text, "{}: {}", file.path.display(), file.what);
        text
    })
}

fn issued(issued: &Issued) -> String {
    let mut text = files(&issued.files);
    for former in &issued.former {
        let (serial, until) = (&former.serial, &former.not_after);
        let _ = writeln!(
            text,
            "note: a former certificate of that name stays valid until {until}; to end it: portcullis pki revoke {serial}"
        );
    }
    text
}

fn list(authority: &Authority, json: bool) -> Result<String, PkiError> {
    let issued = authority.issued();
    if json {
        return serde_json::to_string_pretty(issued)
            .map(|text| text + "\n")
            .map_err(|error| PkiError::Crypto { what: "list", problem: error.to_string() });
    }
    let mut text = String::new();
    for entry in issued {
        let state = match &entry.revoked {
            Some(revoked) => format!("revoked {} ({})", revoked.at, revoked.reason),
            None => format!("until {}", entry.not_after),
        };
        let _ = writeln!(text, "{}  {:6}  {}  {state}", entry.serial, entry.profile, entry.name);
    }
    if text.is_empty() {
        text.push_str("nothing was issued yet\n");
    }
    Ok(text)
}
