//! Children with `mode = "pass"` or `"drop"`: policies without an SA, of which IKE knows nothing.

use std::num::NonZeroU32;

use portcullis_ike::config::AddressMatch;
use portcullis_ipsec::{Policy, PolicyAction, PolicyOrigin, TenantId, TrafficSelector};

use super::connection::{check_families, known_selectors, selectors};
use super::reader::Section;

/// Keys that only mean something where there is an SA.
const OF_SAS: &[&str] = &[
    "esp_proposals",
    "replay_window",
    "per_cpu_sas",
    "rekey_time",
    "life_time",
    "rand_time",
    "rekey_bytes",
    "life_bytes",
    "rand_bytes",
    "rekey_packets",
    "life_packets",
    "rand_packets",
    "rate_in",
    "rate_out",
    "burst_in",
    "burst_out",
];

/// What a child does with its packets if it needs no SA for that.
pub(super) fn action(section: &Section<'_>) -> Option<PolicyAction> {
    match section.text("mode")? {
        "pass" => Some(PolicyAction::Bypass),
        "drop" => Some(PolicyAction::Discard),
        _ => None,
    }
}

/// The policy of such a child. The selectors must be known without a peer.
pub(super) fn policy(
    name: String,
    tenant: TenantId,
    action: PolicyAction,
    section: &Section<'_>,
    (local_addrs, remote_addrs): (&[AddressMatch], &[AddressMatch]),
) -> Option<Policy> {
    if tenant.is_routed() && action == PolicyAction::Bypass {
        let message = "is \"pass\", but the connection has an `interface`: what is not to go into its tunnels, routes have \
                       to lead elsewhere (expected \"tunnel\" or \"drop\")";
        section.error(section.span(), "mode", message);
    }
    let _ = section.string("mode", "\"pass\" or \"drop\"");
    let local_ts = side(section, "local_ts", local_addrs);
    let remote_ts = side(section, "remote_ts", remote_addrs);
    if let (Some(local), Some(remote)) = (&local_ts, &remote_ts) {
        let known = |side: &[TrafficSelector]| side.iter().copied().map(Some).collect::<Vec<_>>();
        check_families(section, &known(local), &known(remote));
    }
    let priority = priority(section);
    if section.text("start_action") == Some("none") {
        let message = "is \"none\", but a policy that passes or drops is in force from the start (leave it out, or say \
                       \"trap\" as in swanctl.conf)";
        section.error(section.span(), "start_action", message);
    }
    let _ = section.choice("start_action", &[("none", ()), ("trap", ()), ("start", ())]);
    for key in OF_SAS.iter().filter(|key| section.has(key)) {
        section.error(section.span(), key, "belongs to an SA, but with this `mode` there is none");
    }
    section.finish(super::connection::LATER_CHILD);
    Some(Policy {
        name,
        tenant,
        local_ts: local_ts?,
        remote_ts: remote_ts?,
        origin: PolicyOrigin::Configured { acquire: false },
        action,
        priority,
        per_worker: false,
    })
}

/// `priority`, as in swanctl.conf: lower goes first, 0 or none leaves it to the mode and the selectors.
pub(super) fn priority(section: &Section<'_>) -> Option<NonZeroU32> {
    let number = section.integer("priority", 0..=u32::MAX.into())?;
    u32::try_from(number.value).ok().and_then(NonZeroU32::new)
}

fn side(section: &Section<'_>, key: &'static str, addrs: &[AddressMatch]) -> Option<Vec<TrafficSelector>> {
    let listed = selectors(section, key)?;
    let known = known_selectors(&listed, addrs);
    // Those of addresses that are not single are left out there.
    if known.as_ref().is_none_or(|known| listed.contains(&None) && known.len() < listed.len()) {
        let message =
            "is `dynamic`, but the connection names no address for it (expected e.g. \"10.1.0.0/16\")";
        section.error(section.span(), key, message);
        return None;
    }
    known
}
