//! Fuzz target of both readers. Whatever comes out is TOML.

use portcullis_fuzz::Target;

use super::*;

const WORDS: &str = "{ } = : , # include also= conn %default %any %dynamic dynamic 0 yes no never 1h 30s 2m psk pubkey eap \
    left right leftsubnet rightsourceip authby ike esp auto=start auto=route auto=add children local remote proposals \
    default aes256-sha256-modp2048! 0.0.0.0/0 ::/0 10.0.0.0/8[tcp/80] tunnel transport pass drop secret 0x 0s";

#[test]
fn fuzz_import() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("conf");
    // The first octet says which it is.
    let seeds = [["s", SITE].concat(), ["i", CONF].concat()];
    Target::new("import").seeds(seeds.map(String::into_bytes)).words(WORDS.split(' ')).run(|input| {
        let Some((kind, text)) = input.split_first() else { return };
        let Ok(text) = std::str::from_utf8(text) else { return };
        // What it includes is nothing of ours.
        if text.contains("include") && text.contains('/') {
            return;
        }
        fs::write(&file, text).unwrap();
        let surroundings = surroundings(dir.path());
        let imported = match kind % 2 {
            1 => swanctl(&file, &surroundings),
            _ => ipsec_conf(&file, None, &surroundings),
        };
        if let Ok(imported) = imported {
            for text in [imported.to_toml(), imported.to_toml_without_secrets()] {
                // What the other side found in its directories may be missing, and is named then.
                let _ = Config::parse(&text, dir.path());
                let document = text.parse::<toml_edit::DocumentMut>();
                document.unwrap_or_else(|error| panic!("no TOML: {error}\n{text}"));
            }
        }
    });
}
