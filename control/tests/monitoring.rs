//! What Prometheus gets, and what stands on it: alert rules, runbooks and the dashboard, judged by promtool and by a
//! Prometheus that scrapes a gateway with traffic.

#![expect(clippy::expect_used, reason = "where a test cannot go on it fails")]

mod prometheus;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_lab::{Gateway, GatewayConfig, Host, LabError, Result, SiteConfig, Sites};
use prometheus::{DASHBOARD, RULES, dashboard_queries, query, read, repository};

const SOON: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const TESTS: &str = "deploy/prometheus/portcullis.tests.yml";

/// Two gateways with a tunnel that has carried packets, has lost some, and has failed before it was up.
struct Busy {
    a: Gateway,
    _b: Gateway,
    sites: Sites,
}

impl Busy {
    fn new(name: &str) -> Result<Self> {
        Self::with(name, "")
    }

    /// With further lines for `[gateway]`.
    fn with(name: &str, lines: &str) -> Result<Self> {
        let sites = Sites::new(name)?;
        let impatient = "[ike]\nretransmit_timeout = \"100ms\"\nretransmit_tries = 1\n\n";
        let ours = SiteConfig { start_action: "start", ..SiteConfig::a() };
        let start = |host: &Host, connections: String| {
            let config = GatewayConfig { gateway_lines: lines.to_owned(), ..GatewayConfig::new(connections) };
            Gateway::start(host, Path::new(BINARY), &config)
        };
        let a = start(&sites.a, format!("{impatient}{}", ours.toml()))?;
        // Nobody answers yet: a failure.
        a.process().wait_line("PEER_SILENT", SOON)?;
        sites.client.ping(Sites::SERVER, 1)?;
        let b = start(&sites.b, ours.mirrored().toml())?;
        sites.b.run(["bash", "-c", "echo no IKE message > /dev/udp/192.0.2.1/500"])?;
        a.initiate("site/net", SOON)?;
        assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
        Ok(Self { a, _b: b, sites })
    }

    fn page(&self, accept: &str) -> Result<String> {
        let get = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9464))?;
            let request =
                format!("GET /metrics HTTP/1.1\r\nHost: gw\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        self.sites.a.enter(get)?.map_err(LabError::io("scrape the metrics"))
    }

    /// Without the head, and with chunks put together: the lines that are neither.
    fn body(&self) -> Result<String> {
        let answer = self.page("*/*")?;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Ok(body.to_owned())
    }
}

fn promtool(arguments: &[&str], input: Option<&str>) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: ./dev setup test installs it");
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.unwrap_or_default().as_bytes()).expect("promtool reads");
    }
    let output = child.wait_with_output().expect("promtool ends");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text.into_owned())
}

/// Every name that begins as ours do.
fn metric_names(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("portcullis_") {
        let rest = text.get(at..).unwrap_or_default();
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        names.insert(rest.get(..end).unwrap_or_default().to_owned());
    }
    names
}

#[test]
fn promtool_has_no_complaint_about_the_metrics() -> Result<()> {
    let busy = Busy::new("promtool")?;
    let (good, text) = promtool(&["check", "metrics"], Some(&busy.body()?));
    assert!(good && text.trim().is_empty(), "{text}");
    let newer = busy.page("application/openmetrics-text")?;
    assert!(newer.contains("application/openmetrics-text; version=1.0.0"), "{newer}");
    assert!(newer.contains("# TYPE portcullis_packets counter") && newer.contains("# EOF"), "{newer}");
    Ok(())
}

#[test]
fn rules_and_dashboard_ask_only_for_metrics_that_there_are() -> Result<()> {
    let busy = Busy::new("names")?;
    let page = busy.body()?;
    // Samples, and families that have none on this gateway, which has no certificates.
    let told = page.lines().filter(|line| line.starts_with("portcullis_") || line.starts_with("# TYPE "));
    let there: BTreeSet<String> = metric_names(&told.collect::<Vec<_>>().join("\n"));
    assert!(there.len() > 20, "{page}");
    let dashboard = dashboard_queries()?;
    assert!(dashboard.len() > 20, "{dashboard:?}");
    for (file, text) in [(RULES, read(RULES)?), (TESTS, read(TESTS)?), (DASHBOARD, dashboard.join("\n"))] {
        let mut asked = metric_names(&text);
        // The name of the rules' file.
        asked.remove("portcullis_");
        let missing: Vec<_> = asked.difference(&there).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}; there are {there:?}");
    }
    let docs = metric_names(&read("docs/monitoring.md")?);
    let families: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(
        families.difference(&docs).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not in docs/monitoring.md"
    );
    assert_eq!(
        docs.difference(&families).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "only in docs/monitoring.md"
    );
    Ok(())
}

#[test]
fn every_alert_is_tested_and_has_a_runbook() -> Result<()> {
    let (good, text) = promtool(&["check", "rules", RULES], None);
    assert!(good, "{text}");
    let (good, text) = promtool(&["test", "rules", TESTS], None);
    assert!(good, "{text}");
    let (rules, tests) = (read(RULES)?, read(TESTS)?);
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    let pages = repository().join("docs/runbooks");
    let mut written: BTreeSet<String> = fs::read_dir(&pages)
        .map_err(LabError::io("list the runbooks"))?
        .filter_map(|page| page.ok()?.file_name().into_string().ok())
        .collect();
    written.remove("README.md");
    for alert in alerts {
        assert!(rules.contains(&format!("/runbooks/{alert}.md")), "{alert} names no runbook");
        assert!(tests.contains(&format!("{alert} fires")), "{alert} is not seen to fire");
        assert!(tests.contains(&format!("{alert} is quiet")), "{alert} is not seen to be quiet");
        assert!(written.remove(&format!("{alert}.md")), "{alert} has no page");
    }
    assert!(written.is_empty(), "pages of no alert: {written:?}");
    Ok(())
}

#[test]
fn every_query_of_the_dashboard_returns_data_from_a_prometheus_that_scrapes_a_gateway() -> Result<()> {
    let busy = Busy::new("dashboard")?;
    let host = &busy.sites.a;
    let _prometheus = prometheus::start(host)?;
    let samples = |query_text: &str, wanted: u32| -> Result<()> {
        let deadline = Instant::now() + SOON;
        let enough = format!("count_over_time({query_text}[1m]) >= {wanted}");
        while query(host, &enough)?.trim().is_empty() {
            assert!(Instant::now() < deadline, "Prometheus does not get {query_text}");
        }
        Ok(())
    };
    samples("portcullis_build_info", 2)?;
    // Something to see between two scrapes: packets that pass, and packets without an SA.
    assert!(busy.sites.client.ping(Sites::SERVER, 3)?.complete());
    busy.a.terminate("site")?;
    busy.sites.client.ping(Sites::SERVER, 3)?;
    busy.a.initiate("site/net", SOON)?;
    samples("portcullis_build_info", 6)?;
    let empty = prometheus::without_data(host, dashboard_queries()?)?;
    assert!(empty.is_empty(), "these return nothing: {empty:#?}");
    let firing = query(host, "ALERTS{alertstate=\"firing\"}")?;
    assert!(firing.trim().is_empty(), "a gateway in order raises {firing}");
    Ok(())
}

/// What dashboards for ipsec_exporter ask.
#[test]
fn a_prometheus_finds_the_names_of_strongswans_exporter() -> Result<()> {
    let busy = Busy::with("exporter", "metrics_compatibility = \"ipsec_exporter\"")?;
    let (good, text) = promtool(&["check", "metrics"], Some(&busy.body()?));
    let complaints: Vec<&str> = text
        .lines()
        // Of the exporter, whose names these are, it has the same to say.
        .filter(|line| !(line.starts_with("ipsec_") && line.ends_with("should have \"_total\" suffix")))
        .collect();
    assert!(complaints.is_empty(), "{good}: {complaints:?}");
    assert!(busy.body()?.contains("# TYPE ipsec_in_bytes counter\n"));
    let host = &busy.sites.a;
    let _prometheus = prometheus::start(host)?;
    let becomes = |name: &str, wanted: &str| -> Result<()> {
        let asked = format!("{name}{{tunnel=\"site\"}}");
        let deadline = Instant::now() + SOON;
        loop {
            let said = query(host, &asked)?;
            if said.contains(&format!("}} => {wanted} @")) {
                return Ok(());
            }
            assert!(Instant::now() < deadline, "{name} does not become {wanted}: {said}");
        }
    };
    becomes("ipsec_up", "1")?;
    becomes("ipsec_status", "0")?;
    for name in ["ipsec_in_packets", "ipsec_out_packets"] {
        becomes(name, "5")?;
    }
    let [child] = busy.a.children()?.try_into().expect("one child");
    becomes("ipsec_in_bytes", &child.bytes_in.to_string())?;
    becomes("ipsec_out_bytes", &child.bytes_out.to_string())?;
    // The IKE SA stays when its last child goes.
    busy.a.terminate("site/net")?;
    becomes("ipsec_status", "1")?;
    busy.a.terminate("site")?;
    becomes("ipsec_status", "2")?;
    becomes("ipsec_in_packets", "5")?;
    Ok(())
}

#[test]
fn traffic_of_a_connection_is_counted_beyond_the_end_of_its_sas() -> Result<()> {
    let busy = Busy::new("carried")?;
    let carried = || -> Result<u64> {
        let page = busy.body()?;
        let name = "portcullis_connection_packets_total{connection=\"site\",direction=\"out\"} ";
        Ok(page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0))
    };
    assert_eq!(carried()?, 5);
    busy.a.terminate("site")?;
    busy.a.wait_children("none", SOON, <[_]>::is_empty)?;
    assert_eq!(carried()?, 5, "what a former SA has carried still counts");
    busy.a.initiate("site/net", SOON)?;
    assert!(busy.sites.client.ping(Sites::SERVER, 4)?.complete());
    assert_eq!(carried()?, 9);
    let former = busy.a.children()?.remove(0).spi_in;
    busy.a.portcullis(&["rekey", "site/net"])?;
    busy.a.wait_children("a rekeyed SA alone", SOON, |all| matches!(all, [one] if one.spi_in != former))?;
    assert!(busy.sites.client.ping(Sites::SERVER, 2)?.complete());
    assert_eq!(carried()?, 11, "over a rekeying too");
    Ok(())
}
