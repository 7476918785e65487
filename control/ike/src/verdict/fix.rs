//! What to do: a line of a configuration file, exactly as it is to be written, or a step that no file can name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::message::{Transform, WireProposal};
use crate::proposal::{transform_name, transform_type as types};

/// Where something is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Our configuration.
    Here,
    /// A strongSwan peer's swanctl.conf.
    Strongswan,
    /// A libreswan peer's ipsec.conf or ipsec.secrets.
    Libreswan,
    /// Whatever kind of peer it is.
    Peer,
    /// What lies between.
    Network,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here => "here (portcullis.toml)",
            Self::Strongswan => "on a strongSwan peer (swanctl.conf)",
            Self::Libreswan => "on a libreswan peer (ipsec.conf)",
            Self::Peer => "on the peer",
            Self::Network => "on the way",
        })
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Fix {
    /// A line of a configuration file, in place of the one with the same key.
    Line {
        /// Whose file.
        place: Place,
        /// Where in it: `connections.site.local`. What only the peer knows the name of is in angle brackets.
        section: String,
        /// The option.
        key: String,
        /// Its value, quoted as the file wants it.
        value: String,
    },
    /// What no file can name.
    Step {
        /// Where.
        place: Place,
        /// What.
        text: String,
    },
}

impl Fix {
    /// A line of ours. `section` is below the configuration's root, `value` is TOML.
    pub fn here(section: impl Into<String>, key: &str, value: impl Into<String>) -> Self {
        Self::line(Place::Here, section, key, value)
    }

    /// A line of a strongSwan peer's, below `connections.<name>`.
    pub fn strongswan(below: &str, key: &str, value: impl Into<String>) -> Self {
        let dot = if below.is_empty() { "" } else { "." };
        Self::line(Place::Strongswan, format!("connections.<name>{dot}{below}"), key, value)
    }

    /// A line of a libreswan peer's `conn`.
    pub fn libreswan(key: &str, value: impl Into<String>) -> Self {
        Self::line(Place::Libreswan, "conn <name>", key, value)
    }

    /// A line of some file.
    pub fn line(place: Place, section: impl Into<String>, key: &str, value: impl Into<String>) -> Self {
        Self::Line { place, section: section.into(), key: key.to_owned(), value: value.into() }
    }

    /// Something to do that is not a line.
    pub fn step(place: Place, text: impl Into<String>) -> Self {
        Self::Step { place, text: text.into() }
    }

    /// Where.
    pub fn place(&self) -> Place {
        match self {
            Self::Line { place, .. } | Self::Step { place, .. } => *place,
        }
    }

    /// The line as it stands in the file, or the step.
    pub fn text(&self) -> String {
        match self {
            Self::Line { place: Place::Libreswan, key, value, .. } => format!("{key}={value}"),
            Self::Line { key, value, .. } => format!("{key} = {value}"),
            Self::Step { text, .. } => text.clone(),
        }
    }
}

impl fmt::Display for Fix {
    /// On one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { place, section, .. } => {
                write!(f, "To fix it {place}, in [{section}]: {}", self.text())
            }
            Self::Step { place, text } => write!(f, "To fix it {place}: {text}"),
        }
    }
}

/// A text in double quotes, for TOML, swanctl.conf and ipsec.conf alike.
pub fn quoted(text: impl fmt::Display) -> String {
    let text = text.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{text}\"")
}

/// A TOML array of texts.
pub fn toml_list(items: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let items: Vec<String> = items.into_iter().map(quoted).collect();
    format!("[{}]", items.join(", "))
}

/// A proposal in libreswan's notation for `ike=`; `None` where it has no word for something.
pub fn libreswan_ike(proposal: &WireProposal) -> Option<String> {
    let encr = libreswan(proposal, types::ENCR)?;
    // libreswan names one hash, for the PRF and for integrity alike.
    let prf = libreswan(proposal, types::PRF)?;
    let ke = libreswan(proposal, types::KE)?;
    Some(format!("{encr}-{prf}-{ke}"))
}

/// A proposal in libreswan's notation for `esp=`.
pub fn libreswan_esp(proposal: &WireProposal) -> Option<String> {
    let mut words = vec![libreswan(proposal, types::ENCR)?];
    words.extend(libreswan(proposal, types::INTEG).filter(|integ| integ != "none"));
    words.extend(libreswan(proposal, types::KE).filter(|ke| ke != "none"));
    Some(words.join("-"))
}

/// libreswan's word for the first transform of a kind.
fn libreswan(proposal: &WireProposal, kind: u8) -> Option<String> {
    let first: &Transform = proposal.transforms.iter().find(|found| found.transform_type == kind)?;
    let name = transform_name(*first);
    let word = match kind {
        types::ENCR => match first.id {
            12 => name,
            13 => format!("aes_ctr{}", first.key_length?),
            18..=20 => {
                let icv = ["a", "b", "c"].get(usize::from(first.id) - 18)?;
                format!("aes_gcm_{icv}_{}", first.key_length?)
            }
            21 => format!("null_auth_aes_gmac{}", first.key_length?),
            28 => "chacha20_poly1305".to_owned(),
            3 => "3des".to_owned(),
            _ => return None,
        },
        types::PRF | types::INTEG => match name.trim_start_matches("prf") {
            "sha1" => "sha1".to_owned(),
            "sha256" => "sha2_256".to_owned(),
            "sha384" => "sha2_384".to_owned(),
            "sha512" => "sha2_512".to_owned(),
            "none" => "none".to_owned(),
            _ => return None,
        },
        _ => match first.id {
            0 => "none".to_owned(),
            14..=24 | 31 => format!("dh{}", first.id),
            _ => return None,
        },
    };
    Some(word)
}

#[cfg(test)]
mod tests {
    use portcullis_ipsec::Spi;

    use super::*;
    use crate::proposal::{EspProposal, IkeProposal};

    /// Checked against `ipsec algparse` of libreswan 4.10.
    #[test]
    fn libreswan_reads_what_is_written_for_it() {
        let ike = |text: &str| libreswan_ike(&text.parse::<IkeProposal>().unwrap().offer(1));
        assert_eq!(ike("aes256gcm16-prfsha384-ecp384").as_deref(), Some("aes_gcm_c_256-sha2_384-dh20"));
        assert_eq!(ike("aes128gcm16-prfsha256-x25519").as_deref(), Some("aes_gcm_c_128-sha2_256-dh31"));
        let esp = |text: &str| {
            let proposal = text.parse::<EspProposal>().unwrap();
            libreswan_esp(&proposal.offer(1, Spi::new(256).unwrap(), true))
        };
        assert_eq!(esp("aes256gcm16").as_deref(), Some("aes_gcm_c_256"));
        assert_eq!(esp("aes256-sha256-modp2048").as_deref(), Some("aes256-sha2_256-dh14"));
        assert_eq!(esp("chacha20poly1305").as_deref(), Some("chacha20_poly1305"));
    }
}
