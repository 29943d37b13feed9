//! What a node says, cut to what a person reads: a message of 1 MiB is no message, whoever sends it.
//!
//! Nothing here is decided upon by its text, so that a cut one costs nothing.

use df_core::limits::TEXT_LEN;
use df_core::text::shorten;
use df_wire::message::{Boot, Fault, FaultKind, LockHolder, ProbeOutcome, Survey};
use df_wire::{Event, Reply};

/// Bytes of a name: of a machine, a kernel, somebody, a command.
const NAME_LEN: usize = 200;
/// Bytes of the output of a program that comes with a fault.
const LOG_LEN: usize = 16 << 10;
/// Programs that load programs: a machine has one for each of its architectures and C libraries.
const N_INTERPRETERS: usize = 100;
/// Receives that were cut: a node tells of 8.
const N_INCOMING: usize = 8;
/// Outcomes of probes: df.yaml has fewer.
const N_PROBES: usize = 100;

/// Cuts the texts of a reply.
pub(crate) fn reply(reply: &mut Reply) {
    match reply {
        Reply::Survey(it) => survey(it),
        Reply::Checked { differences } => {
            for it in differences {
                [&mut it.path, &mut it.kind, &mut it.expected, &mut it.found].into_iter().for_each(text);
            }
        }
        Reply::Verified { probes: it, .. } => probes(it),
        Reply::History { entries } => {
            for it in entries {
                [&mut it.who, &mut it.what].into_iter().for_each(name);
                text(&mut it.detail);
            }
        }
        Reply::Collected { collected } => collected.iter_mut().for_each(|it| text(&mut it.why)),
        Reply::Fault(it) => fault(it),
        // Canonical bytes: cut ones are none.
        Reply::Release { .. } => {}
        Reply::Done
        | Reply::Held
        | Reply::Bytes { .. }
        | Reply::Signatures { .. }
        | Reply::Received { .. }
        | Reply::Serving(_)
        | Reply::Stopped { .. } => {}
    }
}

/// Cuts the texts of an event.
pub(crate) fn event(event: &mut Event) {
    match event {
        Event::Verified { probes: it, .. } => probes(it),
        Event::RolledBack { reason, .. } => text(reason),
        Event::Handoff { seen: Some(seen), .. } => text(&mut seen.first_loss),
        Event::Applied { .. }
        | Event::Started { .. }
        | Event::Ready { .. }
        | Event::Activated { .. }
        | Event::Handoff { .. }
        | Event::Moved { .. }
        | Event::Awaiting { .. }
        | Event::Confirmed { .. }
        | Event::Stopped { .. }
        | Event::Blob { .. }
        | Event::NoBlob { .. }
        | Event::Log { .. } => {}
    }
}

fn survey(survey: &mut Survey) {
    [&mut survey.arch, &mut survey.kernel].into_iter().for_each(name);
    survey.libc.iter_mut().chain(&mut survey.proxy).for_each(name);
    match &mut survey.boot {
        Some(Boot::Unit { unit: it, .. } | Boot::Later { unit: it } | Boot::NotLingering { user: it }) => name(it),
        Some(Boot::Nothing) | None => {}
    }
    if let Some(interpreters) = &mut survey.interpreters {
        interpreters.truncate(N_INTERPRETERS);
        interpreters.iter_mut().for_each(name);
    }
    survey.incoming.truncate(N_INCOMING);
    survey.lock.iter_mut().for_each(holder);
}

/// Cuts the texts of a fault.
pub(crate) fn fault(fault: &mut Fault) {
    text(&mut fault.message);
    // The last lines say most.
    let surplus = fault.log.len().saturating_sub(LOG_LEN);
    let start = (surplus..=fault.log.len()).find(|&at| fault.log.is_char_boundary(at)).unwrap_or(fault.log.len());
    fault.log = fault.log.split_off(start);
    probes(&mut fault.probes);
    if let FaultKind::Locked(it) = &mut fault.kind {
        holder(it);
    }
}

fn probes(probes: &mut Vec<ProbeOutcome>) {
    probes.truncate(N_PROBES);
    for it in probes {
        name(&mut it.name);
        text(&mut it.detail);
    }
}

fn holder(holder: &mut LockHolder) {
    [&mut holder.who, &mut holder.command].into_iter().for_each(name);
}

fn name(text: &mut String) {
    *text = shorten(text, NAME_LEN);
}

fn text(text: &mut String) {
    *text = shorten(text, TEXT_LEN);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_in_a_survey_is_longer_than_a_person_reads() {
        let long = "é".repeat(1 << 20);
        let said = |boot: serde_json::Value| {
            let survey = serde_json::json!({
                "arch": long, "kernel": long, "libc": long, "interpreters": [long], "free": 0, "now": 0, "images": [], "lock": null,
                "proxy": long, "boot": boot, "apps": [],
            });
            let mut reply = Reply::Survey(Box::new(serde_json::from_value(survey).expect("a survey")));
            super::reply(&mut reply);
            serde_json::to_vec(&reply).expect("JSON").len()
        };
        for boot in [
            serde_json::json!({ "unit": { "unit": long, "user": false, "enabled": true } }),
            serde_json::json!({ "later": { "unit": long } }),
            serde_json::json!({ "not_lingering": { "user": long } }),
            serde_json::json!("nothing"),
        ] {
            assert!(said(boot) < 10 * NAME_LEN, "something is not cut");
        }
    }

    #[test]
    fn a_fault_keeps_the_end_of_its_log_and_is_short() {
        let holder = LockHolder { who: "é".repeat(9000), command: "deploy".into(), since: df_core::Timestamp(0) };
        let log = format!("{}last", "é".repeat(9000));
        let mut long = Reply::Fault(Box::new(Fault {
            kind: FaultKind::Locked(holder),
            message: "m".repeat(1 << 20),
            log,
            probes: vec![ProbeOutcome { name: "n".repeat(9000), ok: false, detail: "d".repeat(9000), seconds: 0.0 }; 5000],
            serving: None,
        }));
        reply(&mut long);
        assert!(serde_json::to_vec(&long).expect("JSON").len() < 500 << 10);
        let Reply::Fault(fault) = long else { panic!("it was a fault") };
        assert!(fault.log.ends_with("last") && fault.log.len() <= LOG_LEN);
        assert!(matches!(fault.kind, FaultKind::Locked(holder) if holder.who.len() <= NAME_LEN));
    }
}
