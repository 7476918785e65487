//! `docs/quick-start.md`: a first-time operator's path.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_lab::{LabError, Result, Sites, StrongSwan};

use crate::machine::{Machine, Outcome, run_on};
use crate::page::{Kind, Step, matches, steps};
use crate::prometheus::{dashboard_queries, without_data};

const SOON: Duration = Duration::from_secs(60);
const PAGE: &str = "docs/quick-start.md";

/// Debian's names of what the tests have by others: charon as a service of systemd.
const STANDS_FOR: [(&str, &str); 1] = [("charon-systemd", "strongswan-charon")];

#[test]
fn the_quick_start_leads_to_a_monitored_tunnel_and_mends_a_mistake() -> Result<()> {
    let sites = Sites::new("quickstart")?;
    // The page's own step is what makes a router of it.
    sites.a.sysctl("net.ipv4.ip_forward", "0")?;
    let settings = StrongSwan::settings("unix:///run/charon.vici", "");
    fs::write(sites.b.dir().join("strongswan.conf"), settings)
        .map_err(LabError::io("write strongswan.conf"))?;
    let gateway = Machine::new(&sites.a, &sites.b)?;
    let peer = Machine::new(&sites.b, &sites.a)?;

    let mut explained = String::new();
    for step in steps(PAGE)? {
        let outcome = match (step.kind, step.machine.as_str()) {
            (Kind::Install, _) => {
                are_installed(&step);
                continue;
            }
            (kind, "gateway") => gateway.run(&step.commands, kind == Kind::Succeeds)?,
            (kind, "peer") => peer.run(&step.commands, kind == Kind::Succeeds)?,
            (_, "client") => run_on(&sites.client, &step.commands)?,
            (_, other) => panic!("{PAGE}:{}: there is no machine {other}", step.line),
        };
        is_as_the_page_says(&step, &outcome);
        // What is put in place of the mistake is a line that was printed.
        if let Some(line) =
            step.commands.lines().find_map(|line| line.strip_prefix("sed -i 's/^proposals = .*/"))
            && !explained.is_empty()
        {
            let line = line.split('/').next().unwrap_or_default();
            assert!(
                explained.lines().any(|printed| printed.trim() == line),
                "{line} was not printed:\n{explained}"
            );
        }
        if step.commands.starts_with("portcullis explain") {
            explained = outcome.printed;
        }
    }
    assert!(explained.contains("To fix it here"), "the page explains nothing");
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());

    // What the page does not lead to: a packet that is dropped, and a datagram that is no IKE message.
    run_on(&sites.client, "ping -c 1 -W 1 -t 1 10.2.0.10 || true")?;
    run_on(&sites.b, "echo no IKE message > /dev/udp/192.0.2.1/500")?;
    // A rate takes two scrapes.
    let deadline = Instant::now() + SOON;
    let mut empty = dashboard_queries()?;
    while !empty.is_empty() {
        assert!(Instant::now() < deadline, "the dashboard has no data for {empty:#?}");
        empty = without_data(&sites.a, empty)?;
    }
    Ok(())
}

fn is_as_the_page_says(step: &Step, outcome: &Outcome) {
    let Step { line, kind, commands, printed, .. } = step;
    let Outcome { success, printed: seen } = outcome;
    assert_eq!(*success, *kind == Kind::Succeeds, "{PAGE}:{line}:\n{commands}\nprinted:\n{seen}");
    assert!(
        matches(printed, seen),
        "{PAGE}:{line}:\n{commands}\nprinted:\n{seen}\nand the page says:\n{printed}"
    );
}

/// Whether what the step would install is installed; our own package is a matter of `./dev deb-test`.
fn are_installed(step: &Step) {
    let words = step.commands.split_whitespace().skip_while(|word| *word != "install").skip(1);
    for package in words.filter(|word| !word.starts_with('-') && !word.starts_with("./portcullis")) {
        let stand_in = STANDS_FOR.iter().find(|(name, _)| *name == package).map_or(package, |(_, here)| here);
        let asked = Command::new("dpkg").args(["-s", stand_in]).output();
        let installed = asked.is_ok_and(|output| output.status.success());
        assert!(installed, "{PAGE}:{}: {stand_in} is missing: ./dev setup test", step.line);
    }
}
