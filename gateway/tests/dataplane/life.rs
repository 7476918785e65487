//! Start, stop, and what stays behind.

use std::time::Duration;

use portcullis_gateway::dataplane::{Dataplane, OnStop, StartError};
use portcullis_ipsec::{Encapsulation, InstallError};
use portcullis_lab::{Chatter, Class, Direction, Host, Sites};

use crate::gateway::{A, Gateway, config, policy, start, until};

const SOON: Duration = Duration::from_secs(30);

/// What a data plane leaves on its host.
fn traces(host: &Host) -> String {
    ["-4 route show table 220", "-6 route show table 220", "-4 rule", "-6 rule", "link show"]
        .map(|command| host.ip(command).map_or_else(|error| error.to_string(), |output| output.stdout))
        .join("\n")
}

fn is_clean(host: &Host) -> bool {
    let traces = traces(host);
    !["portcullis0", "10.2.0.0/24", "lookup 220", "0x5043", "xdp"].iter().any(|trace| traces.contains(trace))
}

#[test]
fn a_stopped_data_plane_blocks_until_its_successor_takes_over() {
    let sites = Sites::new("successor").unwrap();
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    let wire = sites.capture().unwrap();
    let flows = [
        Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 1).unwrap(),
        Chatter::start(&sites.a, Sites::A_INSIDE, Sites::SERVER, 1).unwrap(),
    ];
    wire.wait_until("ESP", SOON, |counts| counts.esp(Direction::In) > 100).unwrap();
    let installer = a.installer();
    a.dataplane.stop().unwrap();
    assert_eq!(installer.allocate_spi(), Err(InstallError::Stopped));
    for flow in &flows {
        flow.wait_more(100, SOON).unwrap();
    }
    let next = Gateway::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, A));
    for flow in &flows {
        flow.wait_more(100, SOON).unwrap();
    }
    assert!(next.drops("no_sa") > 0);
    next.connect(&b, Encapsulation::None);
    let counts = wire.counts();
    wire.wait_until("ESP", SOON, |now| now.esp(Direction::In) > counts.esp(Direction::In) + 100).unwrap();
    let counts = wire.settle().unwrap();
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
}

#[test]
fn on_stop_open_and_the_emergency_exit_leave_nothing_behind() {
    let sites = Sites::new("traces").unwrap();
    assert!(is_clean(&sites.a));
    let closed = config(&sites.a, A);
    let open = portcullis_gateway::dataplane::DataplaneConfig { on_stop: OnStop::Open, ..closed.clone() };

    let (dataplane, _) = start(&sites.a, open).unwrap();
    assert!(!is_clean(&sites.a));
    sites.a.enter(|| dataplane.stop()).unwrap().unwrap();
    assert!(is_clean(&sites.a), "{}", traces(&sites.a));

    let (dataplane, _) = start(&sites.a, closed.clone()).unwrap();
    sites.a.enter(|| dataplane.stop()).unwrap().unwrap();
    assert!(!is_clean(&sites.a), "closed is to stay closed");
    sites.a.enter(|| Dataplane::detach_open(&closed)).unwrap().unwrap();
    assert!(is_clean(&sites.a), "{}", traces(&sites.a));

    // The exit is open also while a daemon runs, which may hang.
    let (_hanging, _) = start(&sites.a, closed.clone()).unwrap();
    sites.a.enter(|| Dataplane::detach_open(&closed)).unwrap().unwrap();
    assert!(is_clean(&sites.a), "{}", traces(&sites.a));
    assert!(
        sites.client.ping(Sites::SERVER, 3).unwrap().complete(),
        "everything passes in clear, as asked for"
    );
}

#[test]
fn policies_that_come_and_go_take_their_routes_along() {
    let sites = Sites::new("policies").unwrap();
    let (dataplane, _) = start(&sites.a, config(&sites.a, A)).unwrap();
    let route = |to: &str| sites.a.ip(&format!("route get {to}")).unwrap().stdout;
    assert!(route("10.2.0.10").contains("dev portcullis0") && route("10.2.0.10").contains("src 10.1.0.1"));
    assert!(!route("10.3.0.10").contains("portcullis0"));
    let installer = dataplane.installer();
    let id = installer.install_policy(policy(&["10.1.0.0/24"], &["10.3.0.0/24"])).unwrap();
    assert!(route("10.3.0.10").contains("dev portcullis0"));
    installer.remove_policy(id).unwrap();
    assert!(!route("10.3.0.10").contains("portcullis0"));
    // What IKE sends itself never enters a tunnel.
    assert!(route("10.2.0.10 mark 0x5043").contains("dev outside0"));
    // Without the device, and without anybody who reads from it, the routes behind it answer.
    sites.a.ip("link set portcullis0 down").unwrap();
    assert!(sites.a.ip("route get 10.2.0.10").is_err(), "unreachable");
    sites.a.ip("link set portcullis0 up").unwrap();
    // Both of these the kernel, or the mirror, learns of a little later.
    until("the route is back with its device", || sites.a.ip("route get 10.2.0.10").is_ok());
    sites.a.enter(|| dataplane.stop()).unwrap().unwrap();
    until("without a reader the route does not count", || sites.a.ip("route get 10.2.0.10").is_err());
}

#[test]
fn why_it_does_not_start_is_told_in_plain_words() {
    let sites = Sites::new("refused").unwrap();
    let mut unknown = config(&sites.a, A);
    unknown.interfaces[0].name = "outside9".to_owned();
    let error = start(&sites.a, unknown).err().unwrap().to_string();
    assert!(error.contains("`outside9`") && error.contains("outside0, "), "{error}");

    let mut crowded = config(&sites.a, A);
    crowded.workers = vec![0, 1];
    let error = start(&sites.a, crowded).err().unwrap();
    assert!(matches!(error, StartError::TooFewQueues { queues: 1, workers: 2, .. }), "{error}");

    let mut scarce = config(&sites.a, A);
    scarce.frames = 255;
    let error = start(&sites.a, scarce.clone()).err().unwrap().to_string();
    assert!(error.contains("255 frames are too few for 2") && error.contains("at least 256"), "{error}");
    scarce.frames = 256;
    drop(start(&sites.a, scarce).unwrap());

    sites.a.ip("link set inside0 mtu 15873").unwrap();
    let error = start(&sites.a, config(&sites.a, A)).err().unwrap().to_string();
    assert!(error.contains("inside0 has an MTU of 15873") && error.contains("mtu 15872"), "{error}");
    sites.a.ip("link set inside0 mtu 1500").unwrap();

    let (running, _) = start(&sites.a, config(&sites.a, A)).unwrap();
    let error = start(&sites.a, config(&sites.a, A)).err().unwrap().to_string();
    assert!(error.contains("another process has it open"), "{error}");
    drop(running);
}

#[test]
fn where_ipv6_is_switched_off_ipv4_is_protected_all_the_same() {
    let sites = Sites::new("four").unwrap();
    for scope in ["all", "default"] {
        sites.a.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), "1").unwrap();
    }
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    assert!(sites.client.ping(Sites::SERVER, 3).unwrap().complete(), "{:?}", a.stats());
    assert!(sites.a.ping(Sites::SERVER, 3).unwrap().complete(), "{:?}", a.stats());
}

#[test]
fn an_interface_that_uses_fewer_queues_than_it_could_is_served_on_those() {
    let sites = Sites::new("queues").unwrap();
    // As `ip link add` makes them: queues for every processor, of which one is used.
    sites.a.ip("link add spare0 type veth peer name spare1").unwrap();
    sites.a.ip("link set spare0 up").unwrap();
    sites.a.ip("link set spare1 up").unwrap();
    let mut config = config(&sites.a, A);
    config.interfaces[1].name = "spare0".to_owned();
    let (dataplane, _) = sites.a.enter(|| Dataplane::start(config)).unwrap().unwrap();
    assert_eq!(dataplane.stats().interfaces[1].queues, 1);
    dataplane.stop().unwrap();
}
