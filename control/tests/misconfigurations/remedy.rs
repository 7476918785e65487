//! Does what a verdict says is to be done, as an operator would: writes the printed lines where they say, and takes the steps.

use portcullis_ike::verdict::{Fix, Place, Verdict};
use portcullis_lab::Host;

use crate::cases::{Case, Remedy};
use crate::{ends, pki};

/// Applies the fixes of the place that the case mends. `Err` says what could not be applied.
pub(crate) fn apply(case: &mut Case, verdict: &Verdict, us: &Host) -> Result<(), String> {
    match case.remedy.clone() {
        Remedy::Lines(place) => lines(case, verdict, place),
        Remedy::Step(words, step) => {
            let said = verdict.fixes.iter().any(|fix| fix.text().contains(words));
            if !said {
                return Err(format!("no step speaks of `{words}`"));
            }
            step(case, us);
            Ok(())
        }
    }
}

fn lines(case: &mut Case, verdict: &Verdict, wanted: Place) -> Result<(), String> {
    let mut applied = 0;
    for fix in &verdict.fixes {
        let Fix::Line { place, section, key, value } = fix else { continue };
        if *place != wanted {
            continue;
        }
        // What a verdict cannot know stands in angle brackets: the operator does.
        let value = match value.split_once('<') {
            Some(_) => match case.known.iter().find(|(blank, _)| value.contains(blank)) {
                Some((_, known)) => known.clone(),
                None => continue,
            },
            None => value.clone(),
        };
        match place {
            Place::Here => {
                let name = match section.starts_with("secrets") {
                    true => format!("ike-{}", case.name()),
                    false => case.name(),
                };
                let section = section.replace("<name>", &name);
                ends::set(&mut case.ours, &section, key, &value)?;
            }
            Place::Strongswan => {
                let below = section.strip_prefix("connections.<name>").unwrap_or(section);
                let below = below.trim_start_matches('.').replace("<child>", "net");
                let path = match (section.starts_with("secrets"), below.is_empty()) {
                    (true, _) => "secret".to_owned(),
                    (false, true) => key.clone(),
                    (false, false) => format!("{below}.{key}"),
                };
                case.theirs.insert(path, value);
            }
            place => return Err(format!("no file for a line {place}")),
        }
        applied += 1;
    }
    if applied == 0 {
        return Err(format!("no line for the place: {:?}", verdict.fixes));
    }
    Ok(())
}

/// The peer gets a certificate that nothing is wrong with.
pub(crate) fn new_certificate(case: &mut Case, _us: &Host) {
    pki::renew(case);
}
