//! Fuzz target of the reader. What is wrong is said, whatever it is; nothing panics.

use portcullis_fuzz::Target;

use super::*;

/// Words that options are made of.
const WORDS: &str = "0 -1 1 4294967296 1e9 true false \"\" \"psk\" \"pubkey\" \"eap-mschapv2\" \"eap-radius\" \"%any\" \"%dynamic\" \
    \"dynamic\" \"0.0.0.0/0\" \"::/0\" \"10.0.0.1-10.0.0.9\" \"pass\" \"drop\" \"transport\" \"trap\" \"start\" \"30s\" \"1h\" \"0x00ff\" \
    \"0s\" [ ] [] {} = . \" ' \\ # \n [[gateway.interfaces]] [connections.site] [pools.ra] [secrets.ike-site] [radius] \
    [[radius.servers]] addrs vips pools children local remote proposals esp_proposals mode priority start_action \
    rekey_time rand_time life_time rekey_bytes unique fragmentation encap dpd_delay ppk_id ppk_required replay_window";

#[test]
fn fuzz_config() {
    // Names of files that the input makes up lead nowhere.
    let nowhere = tempfile::tempdir().unwrap();
    let seeds = [
        WHOLE.to_owned(),
        with("auth = \"psk\", id = \"b.example\"", "auth = \"pubkey\", id = \"b.example\""),
    ];
    let documented = include_str!("../../../../docs/configuration.md").split("```toml\n").skip(1);
    let documented = documented.filter_map(|text| text.split("```").next().map(str::to_owned));
    Target::new("config")
        .seeds(seeds.into_iter().chain(documented).map(String::into_bytes))
        .words(WORDS.split(' '))
        .run(|input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            // Devices and pipes have no end.
            if ["/dev", "/proc", "/sys"].iter().any(|place| text.contains(place)) {
                return;
            }
            match Config::parse(text, nowhere.path()) {
                Ok((config, _)) => _ = config.policies(),
                Err(findings) => {
                    assert!(!findings.is_empty());
                    let _ = findings.iter().map(ToString::to_string).collect::<String>();
                }
            }
        });
}
