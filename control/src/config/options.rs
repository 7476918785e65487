//! How the packets of a child are treated: `mode`, what is copied between headers, padding, fragmentation.

use portcullis_ipsec::{
    CopyDf, CopyDscp, Fragmentation, Mode, MssClamp, SaOptions, TfcPadding, TrafficSelector,
};

use super::reader::Section;

/// Options of the outer header, which transport mode does not have.
const OF_TUNNELS: [&str; 5] = ["copy_dscp", "outer_dscp", "copy_ecn", "copy_df", "tfc_padding"];

/// The selectors as configured, `None` in them for `dynamic`; not known if they have errors of their own.
pub(super) fn of_child(
    section: &Section<'_>,
    local_ts: Option<&[Option<TrafficSelector>]>,
    remote_ts: Option<&[Option<TrafficSelector>]>,
) -> SaOptions {
    // The last two have been read elsewhere: they have no SA.
    let modes = [
        ("tunnel", Mode::Tunnel),
        ("transport", Mode::Transport),
        ("pass", Mode::Tunnel),
        ("drop", Mode::Tunnel),
    ];
    let mode = section.choice("mode", &modes).unwrap_or_default();
    if mode == Mode::Transport {
        for key in OF_TUNNELS.into_iter().filter(|key| section.has(key)) {
            section.error(section.span(), key, "is about the outer header, but `mode` is \"transport\"");
        }
        for (key, selectors) in [("local_ts", local_ts), ("remote_ts", remote_ts)] {
            if !selectors.is_none_or(is_one_address) {
                let message =
                    "is not one address, which `mode` = \"transport\" needs (leave it out for the end's own)";
                section.error(section.span(), key, message);
            }
        }
    }
    let directions =
        [("out", CopyDscp::Out), ("in", CopyDscp::In), ("yes", CopyDscp::Yes), ("no", CopyDscp::No)];
    let copy_dscp = section.choice("copy_dscp", &directions).unwrap_or_default();
    let dscp = section.integer("outer_dscp", 0..=63);
    if let Some(dscp) = dscp.as_ref().filter(|_| copy_dscp.outwards()) {
        let message = "has no effect while the inner DSCP is copied: `copy_dscp` must be \"no\" or \"in\"";
        section.error(dscp.span.clone(), "outer_dscp", message);
    }
    let df = [("yes", CopyDf::Yes), ("no", CopyDf::No), ("set", CopyDf::Set)];
    let places = [("before", Fragmentation::Before), ("after", Fragmentation::After)];
    // Two octets hold the length of any packet.
    let octets = |octets: i64| octets as u16;
    SaOptions {
        mode,
        copy_dscp,
        dscp: dscp.map_or(0, |dscp| dscp.value as u8),
        copy_ecn: section.boolean("copy_ecn").unwrap_or(true),
        copy_df: section.choice("copy_df", &df).unwrap_or_default(),
        fragmentation: section.choice("esp_fragmentation", &places).unwrap_or_default(),
        tfc_padding: section
            .integer_or("tfc_padding", 0..=65_535, ("mtu", TfcPadding::Mtu), |size| match size {
                0 => TfcPadding::Off,
                size => TfcPadding::To(octets(size)),
            })
            .unwrap_or_default(),
        mss_clamp: section
            .integer_or("mss_clamp", 88..=65_495, ("mtu", MssClamp::Mtu), |size| MssClamp::To(octets(size)))
            .unwrap_or_default(),
    }
}

/// `dynamic` is the end's own address.
fn is_one_address(selectors: &[Option<TrafficSelector>]) -> bool {
    let known: Vec<TrafficSelector> = selectors.iter().flatten().copied().collect();
    match known.len() {
        0 => true,
        len => len == selectors.len() && Mode::transport_fits(&known, &known),
    }
}
