//! Verdicts as they are printed.

use portcullis_ike::verdict::{ChildSelectors, Fix, Reason, Selector, SelectorTable, Verdict};

use super::*;

fn printed(verdict: Verdict) -> String {
    let report = VerdictReport {
        kind: verdict.reason.kind(),
        page: verdict.reason.page(),
        verdict,
        times: 3,
        timestamp_seconds: 0,
        seconds_ago: 12,
    };
    let mut page = Page::new(false);
    super::verdict(&mut page, &report);
    page.into_text()
}

#[test]
fn the_first_line_names_the_cause_and_the_lines_to_change_stand_at_the_end() {
    let selector = |text: &str| Selector::from(text.parse::<portcullis_ipsec::TrafficSelector>().unwrap());
    let table = SelectorTable {
        asked_by_peer: true,
        asked_local: vec![selector("10.9.0.0/16")],
        asked_remote: vec![selector("10.2.5.0/24")],
        children: vec![ChildSelectors {
            child: "net".to_owned(),
            local: vec![selector("10.1.0.0/16")],
            remote: vec![selector("10.2.0.0/16")],
            common_local: Vec::new(),
            common_remote: vec![selector("10.2.5.0/24")],
        }],
    };
    let verdict = Verdict::new(Reason::TsNoOverlap, "nothing in common")
        .seen(table)
        .fact("asked by", "gw\x1b[2J.example")
        .fix(Fix::here("connections.site.children.net", "local_ts", "[\"10.9.0.0/16\"]"))
        .fix(Fix::strongswan("children.<child>", "remote_ts", "10.1.0.0/16"));
    let verdict = Verdict { connection: Some("site".to_owned()), ..verdict };
    let expected = "\
TS_NO_OVERLAP  site  (configuration; 3 times, last 12s ago)
  nothing in common

    asked by  gw[2J.example

  Traffic selectors:
    child net
      our side
        the peer asked for  10.9.0.0/16  ..........................##############
        configured          10.1.0.0/16  #############...........................
        in common           nothing
      its side
        the peer asked for  10.2.5.0/24  .............#############..............
        configured          10.2.0.0/16  ########################################
        in common           10.2.5.0/24  .............#############..............

  To fix it here (portcullis.toml):
    [connections.site.children.net]
      local_ts = [\"10.9.0.0/16\"]

  To fix it on a strongSwan peer (swanctl.conf):
    [connections.<name>.children.<child>]
      remote_ts = 10.1.0.0/16

  more: portcullis explain reason TS_NO_OVERLAP (docs/reasons/TS_NO_OVERLAP.md)
";
    assert_eq!(printed(verdict), expected);
}
