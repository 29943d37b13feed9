//! What the node itself sees as a client while ports go from one version to the next.

use std::time::{Duration, Instant};

use df_core::name::Label;
use df_core::spec::{Handoff, Probe};
use df_core::{Release, spec::RunSection};
use df_wire::message::Seen;

use super::probing::{host_of, takes_connections};
use super::start::Place;
use crate::activation::MARGIN;
use crate::probe::{HttpProbe, Pace, Question, Steady};

/// New connections a second, to all ports of an application together.
const PER_SECOND: u32 = 200;
/// Requests at once, to each port.
const AT_ONCE: usize = 4;
/// A request that takes longer is lost, where both versions run at once.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The version that serves has to answer within this time, or it is not asked at all.
const FIRST: Duration = Duration::from_secs(5);
/// So many requests are begun after the switch at least.
const AFTER: u64 = 10;
/// How long that may take, at all ports together.
const AFTER_TIME: Duration = Duration::from_secs(2);
const _: () = assert!(AFTER_TIME.as_millis() < MARGIN.as_millis(), "the activation waits for it");

/// A port that both versions have, and what both can be asked there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The port of the new version.
    pub place: Place,
    /// What is asked.
    pub question: Question,
}

/// Clients at work, each at a port.
#[derive(Debug)]
pub struct Watch(Vec<Client>);

/// A client at work.
#[derive(Debug)]
struct Client {
    port: Label,
    steady: Steady,
    /// So many requests had begun when the port went over.
    n_before: Option<u64>,
}

/// Returns the ports that both versions have, unless the new one does not want to be asked.
///
/// A port that a program binds beside the other version's is left out: what is lost there is lost when the old version closes it, which is later.
pub fn targets(old: (&Release, &[Place]), new: (&Release, &[Place])) -> Vec<Target> {
    let wants = |release: &Release| release.run.as_ref().is_some_and(|run: &RunSection| run.prove);
    let both = |place: &&Place| old.1.iter().find(|other| other.address == place.address);
    let ports = new.1.iter().filter(|_| wants(new.0)).filter_map(|place| Some((place, both(&place)?)));
    ports
        .filter(|(new, _)| takes_connections(new))
        .filter(|(new, old)| new.handoff != Handoff::Reuseport && old.handoff != Handoff::Reuseport)
        .map(|(place, before)| Target {
            place: place.clone(),
            question: question((old.0, &before.label), (new.0, &place.label), place),
        })
        .collect()
}

/// Returns how long a request may take: where the old version is stopped first, as long as the next one takes to be there.
pub fn patience(run: &RunSection, stops_first: bool) -> Duration {
    if stops_first { run.drain + run.ready + PATIENCE } else { PATIENCE }
}

impl Watch {
    /// Becomes a client of each port whose version answers; `stays`: with a connection that stays open.
    pub fn start(targets: Vec<Target>, patience: Duration, stays: bool) -> Self {
        let per_second = (PER_SECOND / u32::try_from(targets.len()).unwrap_or(u32::MAX).max(1)).max(1);
        let pace = Pace { per_second, at_once: AT_ONCE, patience };
        let start = |target: Target| Client {
            port: target.place.label.clone(),
            steady: Steady::start(target.place.address, target.question, pace, stays),
            n_before: None,
        };
        let clients: Vec<Client> = targets.into_iter().map(start).collect();
        let until = Instant::now() + FIRST;
        // What the version before does not answer either says nothing about the switch.
        let well = |client: &Client| client.steady.is_answered(until.saturating_duration_since(Instant::now()));
        Self(clients.into_iter().filter(well).collect())
    }

    /// Hears that the ports went over just now: what is begun from here on counts as asked after it.
    pub fn switched(&mut self) {
        self.0.iter_mut().for_each(|client| client.n_before = Some(client.steady.n_begun()));
    }

    /// Goes on a little after the switch, then stops; returns what was seen at each port.
    pub fn finish(self) -> Vec<(Label, Seen)> {
        let until = Instant::now() + AFTER_TIME;
        for Client { steady, n_before, .. } in &self.0 {
            let n_before = n_before.unwrap_or_else(|| steady.n_begun());
            steady.go_on(n_before + AFTER, until.saturating_duration_since(Instant::now()));
        }
        // Together: what is under way at one port is waited for while it is at the others.
        self.0.iter().for_each(|client| client.steady.stop());
        self.0.into_iter().map(|client| (client.port, seen(client.steady))).collect()
    }
}

/// Returns what was lost in words; nothing when nothing was.
pub fn lost(seen: &[(Label, Seen)]) -> Option<String> {
    let failed: u64 = seen.iter().map(|(_, seen)| seen.failed).sum();
    let requests: u64 = seen.iter().map(|(_, seen)| seen.requests).sum();
    let (port, first) = seen.iter().find(|(_, seen)| seen.failed > 0)?;
    let were = if failed == 1 { "was" } else { "were" };
    Some(format!("{failed} of {requests} requests {were} lost in the switch, the first on port {port}: {}", first.first_loss))
}

fn seen(client: Steady) -> Seen {
    let asked = client.finish();
    let first_loss = df_core::text::shorten(&asked.first_loss.unwrap_or_default(), 1024);
    let worst_ms = u64::try_from(asked.worst.as_millis()).unwrap_or(u64::MAX);
    Seen { requests: asked.requests, failed: asked.failed, worst_ms, kept: asked.kept, first_loss }
}

/// Returns the first probe over HTTP of a port that both versions have to answer; a connection says least and is understood by all.
fn question(old: (&Release, &Label), new: (&Release, &Label), place: &Place) -> Question {
    let answers = |(release, label): (&Release, &Label), wanted: (&str, u16)| {
        let is = |probe: &Probe| matches!(probe, Probe::Http { port, path, status } if port == label && (path.as_str(), *status) == wanted);
        release.verify.iter().any(is)
    };
    let common = new.0.verify.iter().find_map(|probe| match probe {
        Probe::Http { port, path, status } if port == new.1 && answers(old, (path, *status)) => Some((path.clone(), *status)),
        _ => None,
    });
    match common {
        Some((path, status)) => Question::Http(HttpProbe { host: host_of(&place.address), path, status }),
        None => Question::Connection,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn http(port: &str, path: &str, status: u16) -> Probe {
        Probe::Http { port: port.parse().expect("a label"), path: path.into(), status }
    }

    fn place(label: &str, address: &str, handoff: Handoff) -> Place {
        Place { label: label.parse().expect("a label"), address: address.parse().expect("an address"), handoff, mode: None }
    }

    fn release(verify: &[Probe], prove: bool) -> Release {
        let mut release = fixture::release("greeter", 1);
        release.verify = verify.to_vec();
        release.run = Some(RunSection {
            exec: df_core::name::PathText::new("bin/greeter").expect("a path"),
            args: vec![],
            env: [].into(),
            env_file: None,
            user: None,
            limits: Default::default(),
            ports: [].into(),
            exclusive: false,
            ready: Duration::from_secs(3),
            drain: Duration::from_secs(2),
            data_epoch: 1,
            prove,
            require_zero_loss: false,
        });
        release
    }

    #[test]
    fn what_both_versions_must_answer_is_asked_at_the_ports_both_have() {
        use Handoff::{Listener, Restart, Reuseport};
        let old = release(&[http("web", "/a", 200), http("web", "/b", 204), http("admin", "/c", 200)], true);
        let new =
            release(&[http("http", "/x", 200), http("http", "/b", 200), http("http", "/b", 204), http("admin", "/a", 200)], true);
        let before = [
            place("web", "127.0.0.1:1", Listener),
            place("admin", "127.0.0.1:2", Restart),
            place("own", "127.0.0.1:3", Reuseport),
            place("gone", "127.0.0.1:4", Listener),
        ];
        let after = [
            place("http", "127.0.0.1:1", Listener),
            place("admin", "127.0.0.1:2", Restart),
            place("own", "127.0.0.1:3", Reuseport),
            place("new", "127.0.0.1:5", Listener),
        ];
        let found = targets((&old, &before), (&new, &after));
        let asked = HttpProbe { host: "127.0.0.1:1".into(), path: "/b".into(), status: 204 };
        let expected = [
            Target { place: after[0].clone(), question: Question::Http(asked) },
            Target { place: after[1].clone(), question: Question::Connection },
        ];
        assert_eq!(found, expected);
        assert_eq!(targets((&old, &before), (&release(&[], false), &after)), [], "it does not want to be asked");
    }

    #[test]
    fn losses_are_summed_and_the_first_is_named() {
        let seen = |requests, failed, loss: &str| Seen { requests, failed, worst_ms: 1, kept: None, first_loss: loss.into() };
        let label = |name: &str| name.parse::<Label>().expect("a label");
        assert_eq!(lost(&[(label("a"), seen(10, 0, ""))]), None);
        let both = [(label("a"), seen(10, 0, "")), (label("b"), seen(5, 1, "connect: refused"))];
        assert_eq!(
            lost(&both).as_deref(),
            Some("1 of 15 requests was lost in the switch, the first on port b: connect: refused")
        );
    }

    #[test]
    fn many_ports_go_over_in_the_time_of_one() {
        // Their queues take whoever connects.
        let ports: Vec<_> = (0..24).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let target = |listener: &std::net::TcpListener| {
            let address = listener.local_addr().expect("bound").to_string();
            Target { place: place("http", &address, Handoff::Listener), question: Question::Connection }
        };
        let watch = Watch::start(ports.iter().map(target).collect(), PATIENCE, true);
        let began = Instant::now();
        let seen = watch.finish();
        // One after the other it would be more than a second for each.
        assert!(began.elapsed() < AFTER_TIME + PATIENCE + Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!((seen.len(), lost(&seen)), (24, None));
    }

    #[test]
    fn a_port_where_nobody_answers_is_not_watched() {
        let (_nobody, address) = fixture::nobody();
        let target = Target { place: place("http", &address.to_string(), Handoff::Restart), question: Question::Connection };
        assert_eq!(Watch::start(vec![target], PATIENCE, true).finish(), []);
    }
}
