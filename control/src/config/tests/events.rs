//! What is told, written, run and exported when tunnels come and go, and what follows when one is lost.

use portcullis_ike::config::{ChildActions, LossAction, PerWorker};

use super::*;
use crate::events::routes::{Export, ExportConfig};

fn child(line: &str) -> String {
    with("start_action = \"trap\"", line)
}

#[test]
fn a_hook_is_a_program_with_its_arguments_and_no_shell_unless_one_is_named() {
    let hook = |line: &str| {
        let (config, _) = parse(&child(line)).unwrap();
        config.hooks[&("site".to_owned(), "net".to_owned())].clone()
    };
    assert_eq!(hook("updown = \"/etc/updown  iptables -v\""), ["/etc/updown", "iptables", "-v"]);
    assert_eq!(
        hook("updown = [\"/bin/sh\", \"-c\", \"echo $HOME; true\"]"),
        ["/bin/sh", "-c", "echo $HOME; true"]
    );
    assert!(parse(WHOLE).unwrap().0.hooks.is_empty());
    for (line, why) in [
        ("updown = \"/etc/updown; reboot\"", "has `;`, which only a shell understands"),
        ("updown = \"updown\"", "begins with `updown`, which is no absolute path"),
        ("updown = \"\"", "is empty"),
        ("updown = 7", "expected"),
    ] {
        let errors = errors(&child(line));
        assert!(
            errors[0].contains("connections.site.children.net.updown") && errors[0].contains(why),
            "{errors:?}"
        );
    }
}

#[test]
fn routes_are_exported_only_where_they_move_no_packet() {
    let export = |lines: &str| parse(&with("on_stop = ", &format!("{lines}\non_stop = ")));
    assert_eq!(export("").unwrap().0.gateway.export_routes, None);
    let config =
        export("export_routes = \"remote_ts\"\nexport_table = 1000\nexport_protocol = 99").unwrap().0;
    let expected = ExportConfig { what: Export::RemoteTs, table: 1000, protocol: 99 };
    assert_eq!(config.gateway.export_routes, Some(expected));
    for table in ["254", "220", "7\nroute_table = 7"] {
        let found = errors(&with("on_stop = ", &format!("export_table = {table}\non_stop = ")));
        assert!(found[0].contains("by which packets are routed"), "{found:?}");
    }
}

#[test]
fn an_audit_trail_needs_a_file_by_its_absolute_path() {
    let audit = |lines: &str| format!("{WHOLE}\n[audit]\n{lines}\n");
    let config = parse(&audit("file = \"/var/log/audit.jsonl\"")).unwrap().0;
    assert_eq!(config.audit.map(|audit| audit.failures_per_second), Some(10));
    assert!(errors(&audit("file = \"audit.jsonl\""))[0].contains("expected an absolute path"));
    assert!(errors(&audit("failures_per_second = 1"))[0].contains("`file` is missing"));
}

#[test]
fn each_worker_may_have_an_sa_of_its_own() {
    let limits = |lines: &str, workers: &str| {
        let text = child(lines).replace("workers = [1]", &format!("workers = {workers}"));
        parse(&text).unwrap().0.engine.connections[0].children[0].per_worker
    };
    let of = |workers, most| Some(PerWorker { workers, most });
    assert_eq!(limits("", "[0, 1]"), None);
    assert_eq!(limits("per_cpu_sas = false", "[0, 1]"), None);
    assert_eq!(limits("per_cpu_sas = true", "[0, 1]"), of(2, 4), "twice as many (RFC 9611 §6)");
    assert_eq!(limits("per_cpu_sas = 3", "[0]"), of(1, 3));
    for (wrong, said) in
        [("\"encap\"", "of no standard"), ("0", "a whole number from 1"), ("\"yes\"", "true, false")]
    {
        let found = errors(&child(&format!("per_cpu_sas = {wrong}")));
        assert!(found.iter().any(|found| found.contains(said)), "{found:?}");
    }
}

#[test]
fn what_follows_a_loss_is_said_in_swanctls_words() {
    let actions = |lines: &str| parse(&child(lines)).unwrap().0.engine.connections[0].children[0].actions;
    assert_eq!(actions(""), ChildActions::default());
    let said = actions("dpd_action = \"restart\"\nclose_action = \"trap\"\ninactivity = \"10m\"");
    let expected = ChildActions {
        dpd: Some(LossAction::Restart),
        close: Some(LossAction::Trap),
        inactivity: std::time::Duration::from_secs(600),
    };
    assert_eq!(said, expected);
    // Packets may come to ask for it.
    let acquires = |lines: &str| parse(&child(lines)).unwrap().0.policies()[0].1.origin;
    assert_eq!(acquires("close_action = \"trap\""), PolicyOrigin::Configured { acquire: true });
    assert_eq!(acquires("dpd_action = \"restart\""), PolicyOrigin::Configured { acquire: false });
    // There has to be somebody to begin to.
    let nobody = child("dpd_action = \"restart\"").replace("\"192.0.2.2, 2001:db8::/32\"", "\"%any\"");
    let found = errors(&nobody);
    assert!(found[0].contains("names no address to initiate to"), "{found:?}");
}
