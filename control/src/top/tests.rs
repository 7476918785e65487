//! Rates of made-up samples, and the screen that they make.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use portcullis_ike::verdict::{self, Verdict};

use crate::api::types::{ChildSa, FrameUsage, InterfaceStatus, PacketBalance, VerdictReport, WorkerStatus};

fn child(spi: &str, bytes: u64) -> ChildSa {
    ChildSa {
        name: "net".to_owned(),
        mode: "TUNNEL".to_owned(),
        spi_in: spi.to_owned(),
        spi_out: "c0ffee".to_owned(),
        proposal: "aes256gcm16-esn".to_owned(),
        resource: None,
        local_ts: vec![],
        remote_ts: vec![],
        installed_seconds: 65,
        packets_in: bytes / 1000,
        bytes_in: bytes,
        packets_out: bytes / 500,
        bytes_out: bytes * 2,
        idle_in_seconds: None,
        idle_out_seconds: None,
    }
}

/// At `at` seconds: a tunnel that has carried `bytes` in and twice as many out, a worker that has been busy for `busy`.
fn sample(at: u64, bytes: u64, busy: f64, no_sa: u64) -> Sample {
    let ike = IkeSa {
        id: 1,
        connection: Some("site".to_owned()),
        interface: None,
        state: "ESTABLISHED".to_owned(),
        initiator: true,
        initiator_spi: String::new(),
        responder_spi: String::new(),
        local: "192.0.2.1:500".to_owned(),
        remote: "192.0.2.2:500".to_owned(),
        local_id: None,
        remote_id: None,
        eap_id: None,
        groups: Vec::new(),
        proposal: None,
        tcp: false,
        nat_local: false,
        nat_remote: false,
        local_vips: Vec::new(),
        remote_vips: Vec::new(),
        established_seconds: Some(66),
        children: vec![child("0000aaaa", bytes)],
    };
    let status = Status {
        version: "0.1.0".to_owned(),
        uptime_seconds: 7200 + at,
        aead_engine: "vaes512".to_owned(),
        workers: 1,
        worker_threads: vec![WorkerStatus {
            core: 3,
            cpu_seconds: busy,
            received: bytes / 100,
            transmitted: bytes / 100,
            dropped: no_sa,
        }],
        frames: FrameUsage { total: 16384, free: 12000 },
        sandbox: String::new(),
        interfaces: vec![InterfaceStatus {
            name: "outside0".to_owned(),
            role: "outside".to_owned(),
            mode: "native, copy".to_owned(),
            queues: 1,
            traffic: Vec::new(),
        }],
        devices: Vec::new(),
        ike_sas: 1,
        half_open_ike_sas: 2,
        down: Vec::new(),
        child_sas: 1,
        packets: PacketBalance::default(),
        verdicts: vec![VerdictReport {
            verdict: Verdict {
                connection: Some("road".to_owned()),
                peer: Some("198.51.100.7:500".parse().unwrap()),
                ..Verdict::new(verdict::Reason::PskMismatch, "the peer authenticated with another key")
            },
            kind: verdict::Reason::PskMismatch.kind(),
            page: verdict::Reason::PskMismatch.page(),
            times: 1,
            timestamp_seconds: 1_700_000_000,
            seconds_ago: 12,
        }],
    };
    let drops = [("no_sa".to_owned(), no_sa), ("ttl_expired".to_owned(), 3), ("malformed".to_owned(), 0)];
    Sample { at: Duration::from_secs(at), status, sas: vec![ike], drops: drops.into() }
}

fn busy() -> Top {
    let mut top = Top::default();
    top.update(sample(10, 1_000_000, 1.0, 100));
    top.update(sample(12, 3_000_000, 2.9, 300));
    top
}

/// The screen, a line a row.
fn screen(top: &Top, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, top)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
    (0..height).map(row).collect()
}

#[test]
fn rates_are_what_has_grown_between_two_samples() {
    let top = busy();
    let [tunnel] = top.tunnels.as_slice() else { panic!("{top:?}") };
    assert_eq!((tunnel.bits_in, tunnel.bits_out), (8e6, 16e6));
    assert_eq!(tunnel.packets, 1000.0 + 2000.0);
    let [worker] = top.workers.as_slice() else { panic!("{top:?}") };
    assert!((worker.load - 0.95).abs() < 1e-9, "{worker:?}");
    assert_eq!((worker.received, worker.dropped), (10_000.0, 100.0));
    let no_sa = Reason { name: "no_sa".to_owned(), rate: 100.0, total: 300 };
    let ttl = Reason { name: "ttl_expired".to_owned(), rate: 0.0, total: 3 };
    assert_eq!(top.reasons, [no_sa, ttl], "what never happened is not listed");
    assert_eq!(top.history, [24_000_000]);
}

#[test]
fn a_daemon_that_was_started_anew_begins_at_nothing() {
    let mut top = busy();
    let mut anew = sample(14, 5_000, 0.1, 1);
    anew.status.uptime_seconds = 1;
    top.update(anew);
    assert_eq!(top.tunnels[0].bits_in, 0.0);
    assert_eq!(top.workers[0].load, 0.0);
}

#[test]
fn an_sa_that_is_new_is_counted_from_nothing_and_one_that_is_gone_is_not_shown() {
    let mut top = busy();
    let mut rekeyed = sample(14, 0, 3.0, 300);
    rekeyed.sas[0].children = vec![child("0000bbbb", 250_000)];
    top.update(rekeyed);
    assert_eq!(top.tunnels.len(), 1);
    assert_eq!(top.tunnels[0].bits_in, 1e6);
}

#[test]
fn the_screen_shows_everything_that_an_operator_looks_for() {
    let screen = screen(&busy(), 110, 32);
    let text = screen.join("\n");
    for expected in [
        "portcullis 0.1.0  up 2h  engine vaes512  frames free 12000/16384",
        "IKE SAs 1 (2 half-open)  CHILD SAs 1  outside0 (native, copy)",
        "in 8.0Mbit/s  out 16.0Mbit/s  3.0kpacket/s",
        "95% ██████████",
        "tunnels (1)",
        "site/net",
        "192.0.2.2:500",
        "PSK_MISMATCH road 198.51.100.7:500",
        "the peer authenticated with another key",
    ] {
        assert!(text.contains(expected), "`{expected}` is missing in\n{text}");
    }
    let worker = screen.iter().find(|line| line.contains("95%")).unwrap();
    assert!(worker.contains("10.0k"), "{worker}");
    let drops = screen.iter().find(|line| line.contains("no_sa")).unwrap();
    assert!(drops.contains("100") && drops.contains("300"), "{drops}");
}

#[test]
fn a_daemon_that_does_not_answer_is_said_to_while_the_last_picture_stays() {
    let mut top = busy();
    top.failed("cannot reach the daemon".to_owned());
    let text = screen(&top, 100, 30).join("\n");
    assert!(text.contains("cannot reach the daemon") && text.contains("site/net"), "{text}");
    top.update(sample(14, 3_000_000, 3.0, 300));
    assert!(!screen(&top, 100, 30).join("\n").contains("cannot reach"));
}

#[test]
fn any_size_can_be_drawn() {
    for (width, height) in [(1, 1), (10, 3), (40, 10), (300, 100)] {
        for top in [Top::default(), busy()] {
            screen(&top, width, height);
        }
    }
}

#[test]
fn history_is_bounded() {
    let mut top = Top::default();
    for n in 0..1000 {
        top.update(sample(n, n * 1000, 0.0, 0));
    }
    assert_eq!(top.history.len(), HISTORY);
}
