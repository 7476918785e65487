//! `auth = "null"` in the configuration.

use std::num::NonZeroU32;

use portcullis_ike::config::{LocalMethod, RemoteMethod};

use super::lints::linted;
use super::*;

/// A connection with these ends, and lines for it and for its child.
fn text(local: &str, remote: &str, lines: &str, child: &str) -> String {
    format!(
        "[gateway]\n[[gateway.interfaces]]\nname = \"a\"\nrole = \"outside\"\n\
         [[gateway.interfaces]]\nname = \"b\"\nrole = \"inside\"\n\
         [secrets.ike]\nsecret = \"a secret that is long enough\"\n[secrets.eap-carol]\nid = \"carol\"\nsecret = \"violets\"\n\
         [connections.site]\n{lines}\nlocal = {local}\nremote = {remote}\n\
         [connections.site.children.net]\nlocal_ts = \"10.1.0.0/16\"\n{child}\n"
    )
}

const NULL: &str = "{ auth = \"null\" }";
const PSK: &str = "{ auth = \"psk\", id = \"a.example\" }";

#[test]
fn an_end_that_proves_nothing_is_read_and_its_children_come_after_all_others() {
    let (config, _) = Config::parse(&text(PSK, NULL, "", ""), Path::new("/nowhere")).unwrap();
    let site = &config.engine.connections[0];
    assert_eq!((&site.local[0].auth, &site.remote[0].auth), (&LocalMethod::Psk, &RemoteMethod::Null));
    assert_eq!(site.children[0].priority, Some(NonZeroU32::MAX));
    let (config, _) = Config::parse(&text(NULL, PSK, "", ""), Path::new("/nowhere")).unwrap();
    let site = &config.engine.connections[0];
    assert_eq!((&site.local[0].auth, &site.remote[0].auth), (&LocalMethod::Null, &RemoteMethod::Psk));
    assert_eq!(site.children[0].priority, None);
}

#[test]
fn what_does_not_go_with_it_is_said() {
    let key = "{ auth = \"psk\" }";
    for (local, remote, lines, child, said) in [
        (
            PSK,
            NULL,
            "",
            "remote_ts = \"10.2.0.0/16\"",
            "lets a peer that proves nothing have what is another's",
        ),
        (PSK, NULL, "", "remote_ts = [\"dynamic\", \"10.2.0.0/16\"]", "have what is another's"),
        (PSK, NULL, "", "priority = 7", "comes after all others"),
        (PSK, NULL, "unique = \"replace\"", "", "peers that prove nothing have none"),
        (PSK, NULL, "session_resumption = true", "", "needs peers that have proved who they are"),
        (NULL, PSK, "ppk_id = \"x\"", "", "is a secret that both ends share"),
        (PSK, "{ auth = \"null\", id = \"b.example\" }", "", "", "it means nothing"),
        ("{ auth = \"null\", certs = \"x.pem\" }", key, "", "", "belongs to public keys"),
        (PSK, "[{ auth = \"psk\" }, { auth = \"null\" }]", "", "", "adds nothing to others"),
        (NULL, "{ auth = \"eap-mschapv2\" }", "", "", "would give its password to anybody"),
    ] {
        let found = Config::parse(&text(local, remote, lines, child), Path::new("/nowhere")).unwrap_err();
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|text| text.contains(said)), "{said}: {found:?}");
    }
}

#[test]
fn check_says_what_it_means_to_let_anybody_in() {
    let build: Build = |root, base| linted(root, base, 0, |_| Some(1500));
    for (local, both) in [(PSK, false), (NULL, true)] {
        let (_, found) = Config::parse_as(&text(local, NULL, "", ""), Path::new("/nowhere"), build).unwrap();
        let found: String = found.iter().map(ToString::to_string).collect();
        assert!(found.contains("whoever reaches us gets a tunnel to 10.1.0.0/16"), "{found}");
        assert_eq!(found.contains("nor do we prove anything"), both, "{found}");
    }
}
