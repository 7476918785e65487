//! `docs/quick-start.md`: a first-time operator's path.

use std::time::{Duration, Instant};

use portcullis_lab::{Result, Sites};

use crate::machine::run_on;
use crate::page::steps;
use crate::prometheus::{dashboard_queries, without_data};
use crate::walk::World;

const SOON: Duration = Duration::from_secs(60);
const PAGE: &str = "docs/quick-start.md";
/// How the page replaces a line of the configuration.
const REPLACES: &str = "sed -i 's/^proposals = .*/";

#[test]
fn the_quick_start_leads_to_a_monitored_tunnel_and_mends_a_mistake() -> Result<()> {
    let world = World::new("quickstart")?;
    let mut explained = String::new();
    for step in steps(PAGE)? {
        let printed = world.take(PAGE, &step)?;
        let replaced = step.commands.lines().find_map(|line| line.strip_prefix(REPLACES));
        // What takes the place of the mistake is a line that was printed.
        if let Some(line) = replaced.and_then(|rest| rest.split('/').next())
            && !explained.is_empty()
        {
            let told = explained.lines().any(|printed| printed.trim() == line);
            assert!(told, "{line} was not printed:\n{explained}");
        }
        if step.commands.starts_with("portcullis explain") {
            explained = printed;
        }
    }
    assert!(explained.contains("To fix it here"), "the page explains nothing");
    let Sites { client, a, b, .. } = &world.sites;
    assert!(client.ping(Sites::SERVER, 3)?.complete());

    // What the page does not lead to: a packet that is dropped, and a datagram that is no IKE message.
    run_on(client, "ping -c 1 -W 1 -t 1 10.2.0.10 || true")?;
    run_on(b, "echo no IKE message > /dev/udp/192.0.2.1/500")?;
    // A rate takes two scrapes.
    let deadline = Instant::now() + SOON;
    let mut empty = dashboard_queries()?;
    while !empty.is_empty() {
        assert!(Instant::now() < deadline, "the dashboard has no data for {empty:#?}");
        empty = without_data(a, empty)?;
    }
    Ok(())
}
