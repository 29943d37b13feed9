//! `df trust`: whom the nodes believe, and how that changes.

use std::path::Path;

use df_core::Bundle;
use df_core::attestation::{Pinned, Policy};
use df_fleet::message::{Reply, Request, Survey};
use df_fleet::{NodeError, Reached};

use crate::across::{self, Intent, Work};
use crate::args;
use crate::event::Event;
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::render::units;
use crate::session::Session;
use crate::trust::changes::{Change, Changes, FILE};
use crate::trust::{self, CHANGE};

/// Shows whom each node believes; with `--sign` attests that they shall believe whom df.yaml names, and sends it when enough did; with `--send` only sends.
pub fn run(args: &args::Trust, session: &Session) -> Result<Exit, Failure> {
    if args.sign {
        return sign(session, args.key.as_deref());
    }
    if args.send {
        return send(session, &Changes::load(&session.top)?);
    }
    let crew = across::reach(session, "trust", false)?;
    let mut ends = crew.ends;
    ends.extend(crew.reached.iter().map(|reached| show(session, reached)));
    Ok(of_nodes(&ends))
}

/// Attests the change from what the nodes believe to what df.yaml names.
fn sign(session: &Session, key: Option<&Path>) -> Result<Exit, Failure> {
    let mut changes = Changes::load(&session.top)?;
    let crew = across::reach(session, "trust", false)?;
    if !crew.ends.is_empty() {
        return Ok(of_nodes(&crew.ends));
    }
    let wanted = &session.config.trust;
    let believed: Vec<Pinned> = crew.reached.iter().filter_map(|reached| asking(&reached.survey)).collect();
    let Some(newest) = believed.iter().max_by_key(|pinned| pinned.sequence).cloned() else {
        session.output().note("no node believes anybody yet: the first copy or deploy tells it whom df.yaml names");
        return Ok(Exit::Done);
    };
    let oldest = believed.iter().map(|pinned| pinned.sequence).min().unwrap_or(0);
    if believed.iter().all(|pinned| pinned.policy == *wanted) {
        session.output().note(format!("every node believes {wanted}, as df.yaml names them"));
        return Ok(Exit::Done);
    }
    let change = match changes.pending(wanted, oldest) {
        Some(change) => change.clone(),
        None => {
            let pinned = Pinned { sequence: changes.next_sequence(newest.sequence), policy: wanted.clone() };
            let statement = df_core::Statement::trust(&pinned);
            Change { bundle: Bundle::new(&statement, vec![]), pinned }
        }
    };
    if session.is_dry_run() {
        let action = format!("attest that nodes shall believe {wanted}");
        let reason = format!("{} believed now; change number {}", newest.policy, change.pinned.sequence);
        session.output().result(&Event::Planned { node: None, action, bytes: None, requests: Some(0), reason, changes: true });
        return Ok(session.planned(true));
    }
    let statement = change.statement();
    let key = trust::signing_key(session, key, &newest.policy, CHANGE)?;
    let attestation = key.sign(&statement).map_err(|error| trust::unsigned(&error, CHANGE))?;
    let by = attestation.key().clone();
    changes.add(Change { bundle: Bundle::new(&statement, vec![attestation]), ..change.clone() });
    changes.save(&session.top)?;
    let change = changes.pending(wanted, oldest).cloned().unwrap_or(change);
    let what = format!("change {} of trust", change.pinned.sequence);
    session.output().step(&trust::attested(what, None, &by, &change.bundle, &newest.policy));
    match change.missing(&newest.policy) {
        0 => send(session, &changes),
        missing => {
            let more = if missing == 1 { "one more key has".to_owned() } else { format!("{missing} more keys have") };
            session.output().note(format!(
                "{more} to attest it before nodes take it: commit {FILE}, so that others can type {CHANGE}; nothing was sent"
            ));
            Ok(Exit::Done)
        }
    }
}

/// Brings every node of the command to what df.yaml names, by the changes that it missed.
fn send(session: &Session, changes: &Changes) -> Result<Exit, Failure> {
    let wanted = session.config.trust.clone();
    let intent = |survey: &Survey| {
        let told = told(survey, &wanted, changes);
        let action = match &told[..] {
            [] => "change nothing".to_owned(),
            [Request::Pin { .. }] => format!("tell it to believe {wanted}"),
            told => format!("tell it {} of trust", units::count(told.len(), "change")),
        };
        Intent { action, reason: believes(survey), changes: !told.is_empty() }
    };
    let changes = changes.clone();
    let sent = wanted.clone();
    across::each(session, "trust", intent, move |work: Work| {
        let (changes, wanted) = (changes.clone(), sent.clone());
        async move { tell(work, &changes, &wanted).await }
    })
}

async fn tell(work: Work, changes: &Changes, wanted: &Policy) -> Result<NodeEnd, NodeError> {
    let Work { label, mut reached, output, .. } = work;
    for request in told(&reached.survey, wanted, changes) {
        let Reply::Done = reached.connection.ask_soon(&request).await? else { return Err(NodeError::Answer) };
    }
    let survey = df_fleet::survey::again(&mut reached.connection).await?;
    let event = event(&label, &survey, wanted);
    output.step(&event);
    reached.connection.close().await;
    Ok(if matches!(event, Event::Trust { agrees: true, .. }) { NodeEnd::Done } else { NodeEnd::Refused })
}

/// Returns what a node is told so that it believes whom df.yaml names.
fn told(survey: &Survey, wanted: &Policy, changes: &Changes) -> Vec<Request> {
    match (&survey.trust, asking(survey)) {
        (None, _) => vec![],
        (Some(_), None) if wanted.is_asking() => vec![Request::Pin { policy: wanted.clone() }],
        (Some(_), None) => vec![],
        (Some(_), Some(pinned)) if pinned.policy == *wanted => vec![],
        (Some(_), Some(pinned)) => changes
            .after(pinned.sequence)
            .map(|change| Request::Trust {
                pinned: change.pinned.clone(),
                attestations: String::from_utf8(change.bundle.encode()).expect("JSON is UTF-8"),
            })
            .collect(),
    }
}

fn show(session: &Session, reached: &Reached) -> NodeEnd {
    let event = event(&reached.connection.node.label(), &reached.survey, &session.config.trust);
    session.output().result(&event);
    if matches!(event, Event::Trust { agrees: true, .. }) { NodeEnd::Done } else { NodeEnd::Differs }
}

fn event(node: &str, survey: &Survey, wanted: &Policy) -> Event {
    let pinned = asking(survey);
    // Who is believed is nobody's business but df.yaml's; a node that was told nothing hears of it with the next copy.
    let agrees = match &pinned {
        Some(pinned) => pinned.policy == *wanted,
        None => survey.trust.is_some() || !wanted.is_asking(),
    };
    Event::Trust {
        node: node.to_owned(),
        sequence: pinned.as_ref().map(|pinned| pinned.sequence),
        threshold: pinned.as_ref().map_or(0, |pinned| pinned.policy.threshold()),
        keys: pinned.iter().flat_map(|pinned| pinned.policy.keys()).map(df_core::attestation::PublicKey::fingerprint).collect(),
        agrees,
        detail: believes(survey),
    }
}

/// Returns whom a node believes, in words.
fn believes(survey: &Survey) -> String {
    match (&survey.trust, asking(survey)) {
        (None, _) => "its df-node is too old to know whom it shall believe".to_owned(),
        (Some(_), None) => "believes whoever has a login".to_owned(),
        (Some(_), Some(Pinned { sequence: 0, policy })) => format!("believes {policy}, since first contact"),
        (Some(_), Some(Pinned { sequence, policy })) => format!("believes {policy}, since change {sequence}"),
    }
}

/// Returns whom a node believes, when it asks for anybody's word.
fn asking(survey: &Survey) -> Option<Pinned> {
    survey.trust.as_ref()?.pinned.clone().filter(|pinned| pinned.policy.is_asking())
}
