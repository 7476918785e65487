//! Misconfigurations as operators make them, each against a real strongSwan: does the first line of `portcullis explain` name
//! the real cause, and does what it prints to change, applied as it is printed, bring the tunnel up?
//!
//! All cases stand side by side: one gateway and one charon (a second one for what concerns a whole daemon), a connection and an
//! address of the peer's for each case. So there are two rounds only: everything wrong, then everything as the verdicts say.
//! [`cases`] is the table; `./dev misconfigurations` prints it with pass or fail.

#![expect(clippy::unwrap_used, reason = "a trial that cannot be set up has failed")]

mod cases;
mod ends;
mod pki;
mod remedy;

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_control::api::types::VerdictReport;
use portcullis_lab::{Gateway, GatewayConfig, Host, Lab, Result, StrongSwan};

use cases::{Case, Initiator, Peer};

/// How long a whole round of one initiator's may take for one case, on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const CHARON: &str =
    "retransmit_timeout = 1.0\n retransmit_base = 1.0\n retransmit_tries = 1\n half_open_timeout = 5\n";

/// Our gateway and two strongSwans on one wire.
struct World {
    _lab: Lab,
    us: Host,
    them: Host,
    odd: Host,
}

impl World {
    fn new(cases: &[Case]) -> Result<Self> {
        let lab = Lab::new("misconfig")?;
        let (us, them, odd) = (lab.host("us")?, lab.host("them")?, lab.host("odd")?);
        let wire = lab.switch("wire")?;
        for host in [&us, &them, &odd] {
            lab.plug(&wire, host, "outside0")?;
        }
        let inside = lab.host("inside")?;
        lab.link(&inside, "eth0", &us, "inside0")?;
        us.address("inside0", "10.1.0.1/16")?;
        us.address("outside0", "192.0.2.1/24")?;
        us.address("outside0", "192.0.2.2/24")?;
        us.forward()?;
        for case in cases {
            let host = if case.peer == Peer::Odd { &odd } else { &them };
            host.address("outside0", &format!("{}/24", case.address()))?;
            // kernel-libipsec takes no child unless it has an address of its own in it.
            for second in [2, 202] {
                host.address("lo", &format!("10.{second}.{}.1/24", case.number))?;
            }
        }
        for case in cases {
            pki::enroll(&us, &them, &odd, case);
        }
        Ok(Self { _lab: lab, us, them, odd })
    }

    /// Whether the hosts put IP fragments together.
    fn fragments_pass(&self, pass: bool) -> Result<()> {
        let (low, high) = ("net.ipv4.ipfrag_low_thresh", "net.ipv4.ipfrag_high_thresh");
        for host in [&self.us, &self.them] {
            // The low one must never be above the high one.
            match pass {
                true => [(high, "4194304"), (low, "3145728")],
                false => [(low, "0"), (high, "0")],
            }
            .into_iter()
            .try_for_each(|(name, value)| host.sysctl(name, value))?;
        }
        Ok(())
    }

    fn start(&self, cases: &[Case]) -> Result<(Gateway, StrongSwan, StrongSwan)> {
        let of = |peer: Peer| cases.iter().filter(move |case| case.peer == peer);
        let charon = |host, peer: Peer, settings: &str| {
            StrongSwan::start_with(host, &ends::swanctl(of(peer)), &format!("{CHARON}{settings}"))
        };
        let them = charon(&self.them, Peer::Usual, "")?;
        // Nobody listens on UDP 4500 there, until the verdict has said so.
        let mended = of(Peer::Odd).any(|case| case.port_4500_open);
        let odd = charon(&self.odd, Peer::Odd, if mended { "" } else { "port_nat_t = 4599\n" })?;
        let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        let config = GatewayConfig::new(ends::toml(cases));
        let gateway = Gateway::start(&self.us, binary, &config)?;
        Ok((gateway, them, odd))
    }
}

/// Lets every case try once, ours and theirs side by side: whether the tunnel came up, or what whoever began it says.
fn round(cases: &[Case], gateway: &Gateway, them: &StrongSwan, odd: &StrongSwan) -> Vec<Result<(), String>> {
    let attempt = |case: &Case| match case.initiator {
        Initiator::We => gateway.initiate(&format!("{}/net", case.name()), SOON),
        Initiator::They => {
            let swan = if case.peer == Peer::Odd { odd } else { them };
            swan.initiate(&format!("{}-net", case.name()), SOON)
        }
    };
    let attempt = |case: &Case| attempt(case).map(drop).map_err(|error| error.to_string());
    let attempt = &attempt;
    std::thread::scope(|scope| {
        // Negotiations wait for timers more than they compute.
        let lanes: Vec<_> = (0..6)
            .map(|lane| {
                let mine: Vec<_> = cases.iter().enumerate().skip(lane).step_by(6).collect();
                scope.spawn(move || mine.into_iter().map(|(i, case)| (i, attempt(case))).collect::<Vec<_>>())
            })
            .collect();
        let mut all: Vec<_> = lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect();
        all.sort_by_key(|(index, _)| *index);
        all.into_iter().map(|(_, result)| result).collect()
    })
}

/// What `portcullis explain` says of a case; waits for what a timer has to bring.
fn explained(gateway: &Gateway, case: &Case) -> Result<Option<(String, VerdictReport)>> {
    let deadline = Instant::now() + SOON;
    let asked = case.asked_about();
    loop {
        let text = gateway.portcullis(&["explain", "peer", &asked])?.stdout;
        let json = gateway.portcullis(&["explain", "peer", &asked, "--json"])?.stdout;
        let verdicts: Vec<VerdictReport> = serde_json::from_str(&json).unwrap();
        // An IKE SA that came up is said first; then comes the verdict.
        let first = text.lines().find(|line| verdicts.iter().any(|v| line.starts_with(v.verdict.code())));
        match (first, verdicts.into_iter().next()) {
            (Some(first), Some(verdict)) => return Ok(Some((first.to_owned(), verdict))),
            _ if Instant::now() >= deadline => return Ok(None),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[test]
fn the_first_line_names_the_cause_and_the_printed_fix_brings_the_tunnel_up() -> Result<()> {
    let mut cases = cases::all();
    assert!(cases.len() >= 40);
    let world = World::new(&cases)?;
    // Fragments do not arrive anywhere, until a verdict has said so.
    world.fragments_pass(false)?;

    let (gateway, them, odd) = world.start(&cases)?;
    let wrong = round(&cases, &gateway, &them, &odd);
    let mut rows = Vec::new();
    for (case, came_up) in cases.iter_mut().zip(wrong) {
        let said = explained(&gateway, case)?;
        let named = said.as_ref().is_some_and(|(first, _)| first.starts_with(&format!("{} ", case.expected)));
        let applied = match &said {
            Some((_, report)) => remedy::apply(case, &report.verdict, &world.us),
            None => Err("no verdict".to_owned()),
        };
        rows.push((came_up, named, said, applied));
    }
    drop((gateway, them, odd));

    world.fragments_pass(true)?;
    let (gateway, them, odd) = world.start(&cases)?;
    let right = round(&cases, &gateway, &them, &odd);

    let mut failed = Vec::new();
    println!("\n{:<4} {:<58} {:<30} {:<9} {:<9}", "", "misconfiguration", "verdict", "named", "mended");
    for ((case, (came_up, named, said, applied)), up) in cases.iter().zip(&rows).zip(right) {
        let verdict = said.as_ref().map_or("-", |(_, report)| report.verdict.code());
        let mended = applied.is_ok() && up.is_ok() && came_up.is_err();
        let word = |good: bool| if good { "pass" } else { "FAIL" };
        println!(
            "{:<4} {:<58} {:<30} {:<9} {:<9}",
            case.number,
            case.what,
            verdict,
            word(*named),
            word(mended)
        );
        if !named || !mended {
            let said = said.as_ref().map(|(first, report)| format!("{first}\n{report:#?}"));
            failed.push(format!(
                "case {} ({}), expected {}: it tried: {came_up:?}, applied: {applied:?}, mended: {up:?}\n{}",
                case.number,
                case.what,
                case.expected,
                said.unwrap_or_else(|| "no verdict".to_owned())
            ));
        }
    }
    println!("\n{} of {} misconfigurations named and mended", cases.len() - failed.len(), cases.len());
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    Ok(())
}
