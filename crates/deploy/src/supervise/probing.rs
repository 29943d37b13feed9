//! A round of probes: every question of a release to one version.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use df_core::Endpoint;
use df_core::name::Label;
use df_core::spec::Probe;
use df_wire::message::ProbeOutcome;

use super::start::Place;
use crate::dial;
use crate::launch::{LaunchSpec, Launcher};
use crate::listeners::Group;
use crate::probe::{self, HttpProbe, Relay};

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A round of probes to one version; it may be run on any thread.
#[derive(Clone)]
pub struct Round {
    /// The questions.
    pub probes: Vec<Probe>,
    /// The ports of the version, with the group of those that have a listener of ours.
    pub ports: Vec<(Place, Option<Arc<Group>>)>,
    /// The version's run, as the groups know it.
    pub run: u64,
    /// How the version itself was started, for commands get the same; or why that cannot be told any more.
    pub spec: Result<LaunchSpec, String>,
    /// How commands are started.
    pub launcher: Launcher,
}

/// Returns the questions of a release; where there are none, its ports are asked whether they take a connection. Of datagrams nobody can ask that.
pub fn questions(verify: &[Probe], places: &[Place]) -> Vec<Probe> {
    if !verify.is_empty() {
        return verify.to_vec();
    }
    places.iter().filter(|place| takes_connections(place)).map(|place| Probe::Tcp { port: place.label.clone() }).collect()
}

impl Round {
    /// Asks every question once.
    pub fn ask(&self) -> Vec<ProbeOutcome> {
        let shortened = |outcome: ProbeOutcome| ProbeOutcome { detail: df_core::text::shorten(&outcome.detail, 1024), ..outcome };
        self.probes.iter().map(|question| shortened(self.question(question))).collect()
    }

    fn question(&self, question: &Probe) -> ProbeOutcome {
        let name = question.name();
        match question {
            Probe::Http { port, path, status } => match self.port(port) {
                Some((place, group)) => {
                    let http = HttpProbe { host: host_of(&place.address), path: path.clone(), status: *status };
                    probe::http(&name, &http, &|timeout| self.dial(place, group, timeout), PATIENCE)
                }
                None => unknown(name, port),
            },
            Probe::Tcp { port } => match self.port(port) {
                Some((place, group)) => {
                    let accepted = || group.map_or(Ok(true), |group| queue_is_empty(group, self.run));
                    probe::tcp(&name, &|timeout| self.dial(place, group, timeout), &accepted, PATIENCE)
                }
                None => unknown(name, port),
            },
            Probe::Command { argv } => self.command(&name, argv),
        }
    }

    /// Runs a program of the image as the version itself runs, with a way to reach this very version.
    fn command(&self, name: &str, argv: &[String]) -> ProbeOutcome {
        let mut spec = match &self.spec {
            Ok(spec) => spec.clone(),
            Err(why) => return failed(name.to_owned(), format!("it cannot be asked as the version runs: {why}")),
        };
        let Some((program, args)) = argv.split_first() else {
            return failed(name.to_owned(), "an empty command".into());
        };
        spec.program = spec.directory.join(program);
        spec.args = args.to_vec();
        spec.listeners = vec![];
        spec.env.remove("NOTIFY_SOCKET");
        spec.env.remove("DF_HANDOFF");
        let mut relays = vec![];
        for (place, group) in &self.ports {
            let address = match group.as_ref().filter(|group| is_on_trial(group, self.run)) {
                None => place.address.bare(),
                Some(group) => match reach_trial(group, &mut relays) {
                    Ok(address) => address,
                    Err(error) => return failed(name.to_owned(), error.to_string()),
                },
            };
            let variable = format!("DF_PROBE_{}", place.label.as_str().to_ascii_uppercase().replace('-', "_"));
            spec.env.insert(variable, address);
        }
        probe::command(name, &spec, &self.launcher, PATIENCE)
    }

    fn port(&self, label: &Label) -> Option<(&Place, Option<&Arc<Group>>)> {
        self.ports.iter().find(|(place, _)| place.label == *label).map(|(place, group)| (place, group.as_ref()))
    }

    fn dial(&self, place: &Place, group: Option<&Arc<Group>>, timeout: Duration) -> io::Result<TcpStream> {
        match group {
            Some(group) if is_on_trial(group, self.run) => group.dial_trial(timeout),
            Some(group) => group.dial_serving(timeout),
            None => dial::endpoint(&place.address, timeout),
        }
    }
}

/// Returns where a command reaches the version on trial: the version's own name in the file system, or a relay that lives as long as the probe.
fn reach_trial(group: &Arc<Group>, relays: &mut Vec<Relay>) -> io::Result<String> {
    if let Some(path) = group.trial_path() {
        return Ok(path);
    }
    let group = group.clone();
    let relay = Relay::open(move |timeout| group.dial_trial(timeout))?;
    let address = relay.address().to_string();
    relays.push(relay);
    Ok(address)
}

fn is_on_trial(group: &Group, run: u64) -> bool {
    group.record().trial == Some(run)
}

fn queue_is_empty(group: &Group, run: u64) -> io::Result<bool> {
    group.queue_len(run).map(|len| len == 0).map_err(io::Error::other)
}

/// Returns what a request calls the server that it is for.
pub fn host_of(address: &Endpoint) -> String {
    address.socket().map_or_else(|| "localhost".to_owned(), |address| address.to_string())
}

/// Returns whether clients connect to a port.
pub fn takes_connections(place: &Place) -> bool {
    !matches!(place.address, Endpoint::Udp(_))
}

fn unknown(name: String, port: &Label) -> ProbeOutcome {
    failed(name, format!("the release has no port {port}"))
}

fn failed(name: String, detail: String) -> ProbeOutcome {
    ProbeOutcome { name, ok: false, detail, seconds: 0.0 }
}

/// Returns whether a port's listener is ours.
pub fn has_listener(place: &Place) -> bool {
    place.handoff.has_listener()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::tests::launcher;

    #[test]
    fn a_command_that_cannot_be_asked_has_failed_and_says_why() {
        let probes = vec![Probe::Command { argv: vec!["bin/check".into()] }];
        let round = Round { probes, ports: vec![], run: 1, spec: Err("run.env_file is gone".into()), launcher: launcher() };
        let outcomes = round.ask();
        assert!(
            matches!(&outcomes[..], [outcome] if !outcome.ok && outcome.detail.contains("run.env_file is gone")),
            "{outcomes:?}"
        );
    }
}
