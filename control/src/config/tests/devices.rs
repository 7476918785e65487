use super::*;

/// The whole configuration, with lines in front of its connection's others, and tables behind.
fn devices(lines: &str, tables: &str) -> String {
    with("[connections.site]\n", &format!("[connections.site]\n{lines}\n")) + tables
}

#[test]
fn an_interface_makes_a_tenant_of_connections_and_shunts_that_name_it() {
    let (config, _) = parse(&devices("interface = \"red\"", "[devices.blue]\nrate_in = \"1M\"\n")).unwrap();
    assert_eq!(config.devices.names(), ["blue", "red"]);
    let red = config.devices.find("red").unwrap();
    assert_eq!(config.devices.name_of(red), Some("red"));
    assert!(config.policies().iter().all(|(_, policy)| policy.tenant == red), "{:?}", config.policies());
    let [(tenant, limits)] = config.devices.rates().iter().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((config.devices.name_of(*tenant), limits.inbound.is_some()), (Some("blue"), true));
    let (config, _) = parse(WHOLE).unwrap();
    assert!(config.devices.names().is_empty() && !config.engine.connections[0].tenant.is_routed());
}

#[test]
fn a_name_that_is_somebody_elses_is_no_device() {
    for (name, expected) in [
        ("portcullis0", "`portcullis0` is `gateway.tun`"),
        ("outside0", "`outside0` is one of `gateway.interfaces`"),
        ("all", "`all` cannot be a device's name"),
        ("lo", "cannot be a device's name"),
        ("a/b", "cannot be a device's name"),
        ("sixteen-letters-", "cannot be a device's name"),
    ] {
        let found = errors(&devices(&format!("interface = \"{name}\""), ""));
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        assert_eq!(errors(&devices("", &format!("[devices.\"{name}\"]\n"))).len(), 1, "{name}");
    }
}

#[test]
fn what_a_device_does_not_go_with_is_refused() {
    for (lines, tables, expected) in [
        ("interface = \"red\"\nvips = \"0.0.0.0\"", "", "are put on `gateway.tun`"),
        (
            "interface = \"red\"",
            "[connections.site.children.host]\nmode = \"transport\"\n",
            "has mode = \"transport\"",
        ),
        (
            "interface = \"red\"",
            "[connections.site.children.open]\nmode = \"pass\"\nlocal_ts = \"10.1.0.0/24\"\nremote_ts = \"10.9.0.0/24\"\n",
            "routes have to lead elsewhere",
        ),
    ] {
        let found = errors(&devices(lines, tables));
        assert!(found.iter().any(|found| found.contains(expected)), "{found:?}");
    }
    let drop = "[connections.site.children.no]\nmode = \"drop\"\nlocal_ts = \"10.1.0.0/24\"\nremote_ts = \"10.9.0.0/24\"\n";
    let (config, _) = parse(&devices("interface = \"red\"", drop)).unwrap();
    assert!(config.shunts[0].tenant.is_routed());
}

#[test]
fn with_devices_nothing_need_be_inside() {
    let text = WHOLE.replacen("role = \"inside\"", "role = \"outside\"", 1);
    assert!(errors(&text).iter().any(|found| found.contains("no interface has role \"inside\"")));
    let text = text.replacen("[connections.site]\n", "[connections.site]\ninterface = \"red\"\n", 1);
    assert!(parse(&text).is_ok(), "{:?}", errors(&text));
}

#[test]
fn a_running_daemon_keeps_its_numbers_for_devices_and_gets_no_others() {
    let read = |lines: &str, tables: &str| parse(&devices(lines, tables)).unwrap().0;
    let running = read("interface = \"red\"", "[devices.blue]\n");
    let new = read("interface = \"red\"", "[devices.red]\nrate_out = \"1M\"\n");
    assert_ne!(new.devices.find("red"), running.devices.find("red"));
    let new = new.with_devices_of(&running).unwrap();
    let red = running.devices.find("red").unwrap();
    assert_eq!(new.devices.names(), running.devices.names());
    assert_eq!((new.engine.connections[0].tenant, new.devices.rates().keys().next()), (red, Some(&red)));
    assert!(
        read("", "").with_devices_of(&running).is_ok_and(|new| !new.engine.connections[0].tenant.is_routed())
    );
    let more = read("interface = \"green\"", "[devices.red]\n[devices.black]\n");
    assert_eq!(more.with_devices_of(&running).unwrap_err(), ["black", "green"]);
}

#[test]
fn the_emergency_exit_finds_devices_whatever_is_wrong_with_their_connections() {
    let text = "[gateway]\n[[gateway.interfaces]]\nname = \"outside0\"\nrole = \"both\"\n\
                [connections.a]\ninterface = \"red\"\nno_such = 1\n[connections.b]\ninterface = \"all\"\n[devices.blue]\nrate_in = 3\n";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portcullis.toml");
    std::fs::write(&file, text).unwrap();
    let (config, _) = Config::load_gateway(&file).unwrap();
    assert_eq!(config.devices.names(), ["blue", "red"]);
}
