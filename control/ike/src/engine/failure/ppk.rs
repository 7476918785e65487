//! Post-quantum pre-shared keys.

use super::{About, Fix, Place, Reason, Verdict};
use crate::config::Identity;
use crate::verdict::{quoted, toml_list};

impl About {
    /// We are to begin with one that we do not have.
    pub(in crate::engine) fn no_ppk(&self, id: &Identity) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::NoPpk,
            format!("{section}.ppk_id is `{id}`, but no [secrets.ppk-*] has it among its ids"),
        )
        .fix(Fix::here("secrets.ppk-<name>", "ids", toml_list([id])))
        .fix(Fix::here("secrets.ppk-<name>", "secret", quoted("<the same as on the peer>")))
    }

    /// One is required, and the peer, or our own configuration, has no use for any.
    pub(in crate::engine) fn ppk_not_supported(&self) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        self.fail(
            Reason::PpkRequired,
            format!("{section}.ppk_required is true, but {peer} and we have not agreed to use a post-quantum pre-shared key (RFC 8784): it has none, or {section}.ppk_id is missing"),
        )
        .fixes(self.agree_on_ppk())
    }

    /// One is required, and the peer used none that we know of.
    pub(in crate::engine) fn ppk_not_used(&self) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        self.fail(
            Reason::PpkRequired,
            format!("{section}.ppk_required is true, but {peer} used no post-quantum pre-shared key that both have"),
        )
        .fixes(self.agree_on_ppk())
    }

    /// The peer named one that we have, and its proof does not fit.
    pub(in crate::engine) fn ppk_mismatch(&self, key: &str, remote_id: &Identity) -> Verdict {
        self.fail(
            Reason::PpkMismatch,
            format!("the secrets differ: `{remote_id}` named a post-quantum pre-shared key that we have, but either that or the pre-shared key ([secrets.{key}]) is another here"),
        )
        .fix(Fix::here("secrets.ppk-<name>", "secret", quoted("<the same as on the peer>")))
        .fix(Fix::line(Place::Strongswan, "secrets.ppk-<name>", "secret", quoted("<the same as here>")))
    }

    /// Whom EAP has authenticated named one that we have, and its proof does not fit.
    pub(in crate::engine) fn ppk_mismatch_with_eap(&self, user: &str) -> Verdict {
        self.fail(
            Reason::PpkMismatch,
            format!("the secrets differ: user `{user}` named a post-quantum pre-shared key that we have, but either that is another there, or the key that came of EAP is"),
        )
        .fix(Fix::here("secrets.ppk-<name>", "secret", quoted("<the same as on the peer>")))
        .fix(Fix::line(Place::Strongswan, "secrets.ppk-<name>", "secret", quoted("<the same as here>")))
    }

    fn agree_on_ppk(&self) -> [Fix; 4] {
        [
            Fix::here(self.section(), "ppk_id", quoted("<a name of [secrets.ppk-*]>")),
            Fix::here(self.section(), "ppk_required", "false"),
            Fix::strongswan("", "ppk_id", "<the same name>"),
            Fix::step(
                Place::Libreswan,
                "in ipsec.secrets: : PPKS \"<the same name>\" \"<the same secret>\", and ppk=yes in ipsec.conf",
            ),
        ]
    }
}
