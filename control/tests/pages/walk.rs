//! Two sites with a gateway of ours and a strongSwan, as the pages have them, and pages walked through there.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use portcullis_lab::{LabError, Result, Sites, StrongSwan};

use crate::machine::{Machine, Outcome, run_on};
use crate::page::{Kind, Step, matches, steps};
use crate::prometheus::read;

/// Debian's names of what the tests have by others: charon as a service of systemd.
const STANDS_FOR: [(&str, &str); 1] = [("charon-systemd", "strongswan-charon")];

pub(crate) struct World {
    pub(crate) sites: Sites,
    gateway: Machine,
    peer: Machine,
}

impl World {
    /// Machines on which nothing is configured.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let sites = Sites::new(name)?;
        // The quick start's own step is what makes a router of it.
        sites.a.sysctl("net.ipv4.ip_forward", "0")?;
        let settings = StrongSwan::settings("unix:///run/charon.vici", "");
        let file = sites.b.dir().join("strongswan.conf");
        fs::write(file, settings).map_err(LabError::io("write strongswan.conf"))?;
        let gateway = Machine::new(&sites.a, &sites.b)?;
        let peer = Machine::new(&sites.b, &sites.a)?;
        Ok(Self { sites, gateway, peer })
    }

    /// Machines as the quick start leaves them once the tunnel is up.
    pub(crate) fn with_a_tunnel(name: &str) -> Result<Self> {
        let world = Self::new(name)?;
        let page = "docs/quick-start.md";
        for step in steps(page)?.iter().take_while(|step| !step.heading.starts_with("6.")) {
            world.take(page, step)?;
        }
        Ok(world)
    }

    /// Takes all steps of a page.
    pub(crate) fn walk(&self, page: &str) -> Result<()> {
        let steps = steps(page)?;
        assert!(steps.len() > 2, "{page}: {} steps", steps.len());
        steps.iter().try_for_each(|step| self.take(page, step).map(drop))
    }

    /// Takes a step of a page: it has to print what the page says. What it printed is returned.
    pub(crate) fn take(&self, page: &str, step: &Step) -> Result<String> {
        let Step { line, kind, commands, printed, .. } = step;
        let to_the_end = *kind == Kind::Succeeds;
        let Outcome { success, printed: seen } = match (kind, step.machine.as_str()) {
            (Kind::Install, _) => {
                are_installed(page, step);
                return Ok(String::new());
            }
            (_, "gateway") => self.gateway.run(commands, to_the_end)?,
            (_, "peer") => self.peer.run(commands, to_the_end)?,
            (_, "client") => run_on(&self.sites.client, commands)?,
            (_, other) => panic!("{page}:{line}: there is no machine {other}"),
        };
        assert_eq!(success, to_the_end, "{page}:{line}:\n{commands}\nprinted:\n{seen}");
        let as_it_says = matches(printed, &seen);
        assert!(as_it_says, "{page}:{line}:\n{commands}\nprinted:\n{seen}\nand the page says:\n{printed}");
        Ok(seen)
    }
}

/// Whether what the step would install is installed; our own package is a matter of `./dev deb-test`.
fn are_installed(page: &str, step: &Step) {
    let words = step.commands.split_whitespace().skip_while(|word| *word != "install").skip(1);
    for package in words.filter(|word| !word.starts_with('-') && !word.starts_with("./portcullis")) {
        let stand_in = STANDS_FOR.iter().find(|(name, _)| *name == package).map_or(package, |(_, here)| here);
        let asked = Command::new("dpkg").args(["-s", stand_in]).output();
        let installed = asked.is_ok_and(|output| output.status.success());
        assert!(installed, "{page}:{}: {stand_in} is missing: ./dev setup test", step.line);
    }
}

#[test]
fn troubleshooting_shows_what_is_seen_and_every_name_of_a_drop_is_explained() -> Result<()> {
    let world = World::with_a_tunnel("trouble")?;
    world.walk("docs/troubleshooting.md")?;
    let Outcome { printed, .. } = world.gateway.run("portcullis drops --json", true)?;
    let names = |text: &str, from: &str, to: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(from));
        lines.filter_map(|line| Some(line.split_once(to)?.0.to_owned())).collect()
    };
    let counted = names(&printed, "\"", "\"");
    assert!(counted.len() > 40, "{counted:?}");
    assert_eq!(counted, names(&read("docs/drops.md")?, "| `", "`"));
    Ok(())
}

#[test]
fn what_is_closed_without_the_daemon_is_closed() -> Result<()> {
    World::with_a_tunnel("closed")?.walk("docs/security.md")
}

#[test]
fn a_strongswan_gives_way_to_us_as_the_page_says() -> Result<()> {
    World::with_a_tunnel("giveway")?.walk("docs/coming-from-strongswan.md")
}
