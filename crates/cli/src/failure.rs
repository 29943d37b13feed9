//! Why a command did not do what it was asked, and what to type next.

use std::error::Error;

use df_build::{BuildError, ProcessError};
use df_core::text::shorten;
use df_fleet::NodeError;
use df_fleet::message::{Fault, FaultKind, Serving};

use crate::event::Event;
use crate::exit::{Exit, NodeEnd};

/// The end of a command before it did anything to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the caller sees.
    pub exit: Exit,
    /// What df was at.
    pub phase: &'static str,
    /// What happened, its causes included.
    pub message: String,
    /// What to type next.
    pub next: Option<String>,
    /// The last lines of the output of what failed.
    pub log: Vec<String>,
}

impl Failure {
    /// Says what failed.
    pub fn new(exit: Exit, phase: &'static str, message: impl Into<String>) -> Self {
        Self { exit, phase, message: message.into(), next: None, log: vec![] }
    }

    /// Says that the words or a configuration are wrong.
    pub fn usage(phase: &'static str, error: &dyn Error) -> Self {
        Self::new(Exit::Usage, phase, chain(error))
    }

    /// Says that something here failed.
    pub fn here(phase: &'static str, error: &dyn Error) -> Self {
        Self::new(Exit::Failed, phase, chain(error))
    }

    /// Adds what to type next.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Returns the event for it, on a node.
    pub fn event_of(&self, label: &str) -> Event {
        match self.event() {
            Event::Error { phase, message, serving, next, log, .. } => {
                let node = Some(label.to_owned());
                Event::Error { node, phase, message, serving, next, log }
            }
            other => other,
        }
    }

    /// Returns the event for it.
    pub fn event(&self) -> Event {
        Event::Error {
            node: None,
            phase: self.phase.to_owned(),
            message: self.message.clone(),
            serving: None,
            next: self.next.clone(),
            log: self.log.clone(),
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let exit = match &error {
            BuildError::Cancelled => Exit::Interrupted,
            BuildError::Strict { .. } | BuildError::StaticElsewhere => Exit::Usage,
            _ => Exit::Failed,
        };
        let mut failure = Self::new(exit, "build", format!("{}; nothing was changed", chain(&error)));
        if let BuildError::Process(ProcessError::Full { .. }) = &error {
            failure.next = Some("make room there, then type it again; df gc lets go of old versions".to_owned());
        }
        if let BuildError::Failed { lines, log, .. } = error {
            failure.next = Some(format!("less {}", log.display()));
            failure.log = lines;
        }
        failure
    }
}

/// Returns an error with its causes, `: ` between them.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    shorten(&text, 8192)
}

/// Returns what the failure of a request means for the node.
pub fn end_of(error: &NodeError) -> NodeEnd {
    match error {
        // Whether the last request was fulfilled is not known, so what it serves is not either.
        NodeError::Unreachable { .. } | NodeError::Broken { .. } | NodeError::Silent(_) => NodeEnd::Unreachable,
        NodeError::Bootstrap(_) | NodeError::Session(_) | NodeError::Answer => NodeEnd::Failed,
        NodeError::Fault(fault) => match &fault.kind {
            FaultKind::Locked(_) => NodeEnd::Locked,
            FaultKind::Reverted => NodeEnd::PutBack,
            FaultKind::Untrusted => NodeEnd::Refused,
            _ => NodeEnd::Failed,
        },
    }
}

/// Returns the event for a request that a node did not fulfil. `word` is what the node is called on the command line.
pub fn of_node(node: &str, phase: &str, error: &NodeError) -> Event {
    let (serving, log) = match error {
        NodeError::Fault(fault) => (Some(serving(fault.serving.as_ref(), &fault.kind)), last_lines(fault)),
        NodeError::Unreachable { .. } => (Some("unknown; nothing was changed by this command".to_owned()), vec![]),
        NodeError::Broken { .. } | NodeError::Silent(_) => (Some("unknown".to_owned()), vec![]),
        NodeError::Bootstrap(_) | NodeError::Session(_) | NodeError::Answer => (Some("what served before".to_owned()), vec![]),
    };
    Event::Error {
        node: Some(node.to_owned()),
        phase: phase.to_owned(),
        message: message(error),
        serving,
        next: Some(next(node, phase, error)),
        log,
    }
}

/// Returns the event for an activation that came to nothing: what the version wrote that was started lies in its own log.
pub fn of_activation(node: &str, error: &NodeError, generation: Option<u64>) -> Event {
    let mut event = of_node(node, "activate", error);
    if let (Event::Error { next: Some(next), .. }, Some(generation)) = (&mut event, generation) {
        *next = next.replacen("df logs ", &format!("df logs --generation {generation} "), 1);
    }
    event
}

/// Returns what serves, for people.
pub fn serving_text(serving: &Serving) -> String {
    let state = if serving.pid.is_none() { ", not running" } else { "" };
    format!("generation {}, commit {}{state}", serving.generation, serving.commit.short())
}

fn serving(serving: Option<&Serving>, kind: &FaultKind) -> String {
    match serving {
        Some(serving) => serving_text(serving),
        None if matches!(kind, FaultKind::Locked(_)) => "what served before; nothing was changed".to_owned(),
        None => "what served before".to_owned(),
    }
}

fn message(error: &NodeError) -> String {
    let mut text = chain(error);
    if let NodeError::Fault(fault) = error {
        for probe in fault.probes.iter().filter(|probe| !probe.ok && !fault.message.contains(&probe.name)) {
            text = format!("{text}; {}: {}", probe.name, shorten(&probe.detail, 500));
        }
    }
    text
}

fn last_lines(fault: &Fault) -> Vec<String> {
    let lines: Vec<String> = fault.log.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(50)..].to_vec()
}

/// Returns what to type next.
fn next(node: &str, phase: &str, error: &NodeError) -> String {
    let command = |command: &str| format!("df {command} --address {node}");
    match error {
        NodeError::Unreachable { .. } | NodeError::Bootstrap(_) | NodeError::Session(_) => command("doctor"),
        NodeError::Broken { .. } | NodeError::Silent(_) | NodeError::Answer => command("status"),
        NodeError::Fault(fault) => match &fault.kind {
            FaultKind::Locked(holder) => format!("wait for {}, then type it again", holder.who),
            FaultKind::Moved { .. } => format!("{}, then type it again", command("history")),
            FaultKind::Missing => match phase {
                "rollback" | "logs" => command("history"),
                "verify" => command("start"),
                "start" | "restart" => command("deploy"),
                _ => command("cp"),
            },
            FaultKind::Epoch { safe } => {
                let is_serving = fault.serving.as_ref().is_some_and(|serving| serving.generation == *safe);
                if is_serving { command("rollback --force") } else { command(&format!("rollback --to {safe}")) }
            }
            FaultKind::DiskFull => command("gc"),
            FaultKind::Damaged => command("cp --full"),
            FaultKind::StartFailed | FaultKind::NotReady | FaultKind::ProbeFailed | FaultKind::Reverted => command("logs"),
            FaultKind::PortHeld
            | FaultKind::DeltaRefused
            | FaultKind::Elsewhere { .. }
            | FaultKind::Expired { .. }
            | FaultKind::Unfetched { .. }
            | FaultKind::Refused
            | FaultKind::Unknown
            | FaultKind::Failed => command("status"),
            FaultKind::Unsupported => command("doctor"),
            FaultKind::Untrusted => command("trust"),
        },
    }
}

#[cfg(test)]
mod tests;
