//! With `--tx-if` and `--rx-if`: generator and sink on two interfaces of this network namespace, and the gateway, whatever
//! it is, elsewhere. It must be set up as the one in the lab is; what that means is printed.

use anyhow::Context;
use portcullis_gateway::wire::Mac;

use super::gateway::Mode;
use super::lab::{FAR_GATEWAY, FAR_HOST, LOCAL, NEAR_HOST, REMOTE};
use super::measure::{Rig, expected};
use super::packets::{KEYMAT, PeerSa, spi_of};
use super::report::Report;
use super::{Case, Options, mixtures};

/// Measures what the gateway forwards, with one SA.
pub(crate) fn run(options: &Options, tx: &str, rx: &str) -> anyhow::Result<()> {
    let mac = options.gateway_mac.as_deref().context("--tx-if needs --gateway-mac, too")?;
    let mac = parse(mac).with_context(|| format!("`{mac}` is no MAC address such as 02:00:00:00:00:01"))?;
    eprintln!("{}", assumed(tx, rx));
    let mut rig = Rig::elsewhere([tx, rx], mac, options.trial(), options.loss_tolerance / 100.0)?;
    let mut report = Report::new(options.output);
    // Sequence numbers go on from case to case: to the gateway it is one SA.
    let mut peers = vec![PeerSa { spi: spi_of(0, 0), next: 1 }];
    for _ in 0..options.rounds() {
        for mode in Mode::ALL {
            for mixture in mixtures(options.scope.quick) {
                let case = Case { mode, mixture, sas: 1, rekeys: 0 };
                let name = case.name();
                if !options.scope.wants(&name) {
                    continue;
                }
                let mut source = rig.source(&case, peers.clone())?;
                let measured = rig.climb(&case, &mut source, || expected(&case), None, &mut |_| Ok(()));
                if mode == Mode::Decrypt {
                    peers = source.into_peers();
                }
                report.found(&name, "elsewhere", &case.mixture.sizes, measured);
            }
        }
    }
    report.print(&super::notes(options));
    Ok(())
}

fn assumed(tx: &str, rx: &str) -> String {
    let key = KEYMAT.map(|octet| format!("{octet:02x}")).concat();
    let spi = spi_of(0, 0);
    format!(
        "assumed: {tx} and {rx} each have one queue, are up, and carry nothing else (the sink takes everything);\n\
         the gateway forwards what comes from {NEAR_HOST} to {REMOTE} by {rx} (plain), or seals it there for the SA with SPI \
         {spi} from {FAR_GATEWAY} to {FAR_HOST} (encrypt);\n\
         or opens ESP with SPI {spi} from {FAR_HOST} to {FAR_GATEWAY} (decrypt), whose inner packets go to {LOCAL} by {rx};\n\
         AES-256-GCM with a 16-octet ICV and ESN, key and salt {key}, and IVs that are the sequence numbers; a new run begins with \
         sequence number 1, so the SA is installed anew for each. Choose with --only plain, encrypt or decrypt."
    )
}

fn parse(text: &str) -> Option<Mac> {
    let octets: Vec<u8> =
        text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<_, _>>().ok()?;
    octets.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_has_six_octets() {
        assert_eq!(parse("02:00:00:00:00:1f"), Some([2, 0, 0, 0, 0, 0x1f]));
        assert_eq!(parse("02:00:00:00:00"), None);
        assert_eq!(parse("02:00:00:00:00:1g"), None);
    }
}
