//! What operators ask of an application.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use df_core::Release;
use df_wire::message::{Fault, FaultKind, GenerationResult, LockHolder, ProbeOutcome, RollbackTarget};
use df_wire::{Reply, Request};

use super::super::start;
use super::activate::Wish;
use super::watching::kill;
use super::{App, Starting, Told};
use crate::activation;
use crate::control::{self, Wanted};
use crate::generation::{self, Record};
use crate::serve::{chain, failed, fault, now, of_trust};
use crate::{staged, store, trust, users};

type Answer = Sender<Told>;

/// However long an operator wants to have for its confirmation.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How an operator wants a release activated.
struct Terms {
    soak: Duration,
    who: String,
    listen: IpAddr,
    confirm: Option<Duration>,
    follow: Option<Duration>,
}

impl App {
    /// Answers a request, or begins what will answer it.
    pub(super) fn answer(&mut self, request: Request, answer: Answer) {
        let refused = match request {
            Request::Verify { .. } => self.verify(&answer),
            Request::Confirm { generation, .. } => self.confirm(generation, &answer),
            Request::Withdraw { generation, who, .. } => self.withdraw(generation, &who, &answer),
            Request::Halt { all, who, .. } => self.halt(all, &who).map(|stopped| {
                let _ = answer.send(Told::Reply(Reply::Stopped { stopped }));
            }),
            _ if self.flight.is_some() => Err(self.busy()),
            Request::Activate { release, expect, soak, who, listen, confirm_ms, follow_ms } => {
                let confirm = confirm_ms.map(|ms| Duration::from_millis(ms).min(LONGEST_WAIT));
                let terms = Terms { soak, who, listen, confirm, follow: follow_ms.map(Duration::from_millis) };
                self.activate(&release, expect, terms, &answer)
            }
            Request::TakeBack { expect, to, who, why, listen, .. } => self.take_back(expect, to, who, &why, listen, &answer),
            Request::Rollback { to, expect, soak, who, listen, force, follow_ms, .. } => {
                let checked = if force { Ok(()) } else { self.check_epoch(to.as_ref(), expect) };
                // Who goes back wants to be rid of what serves; it does not come back because the line is bad.
                let terms = Terms { soak, who, listen, confirm: None, follow: follow_ms.map(Duration::from_millis) };
                checked.and_then(|()| self.roll_back(to.as_ref(), expect, terms, &answer))
            }
            Request::Start { listen, .. } => self.start(listen, &answer),
            Request::Stop { all, now, again, .. } => self.stop(all, now, again).map(|stopped| {
                // Who asked may be gone; it is stopped all the same.
                let _ = answer.send(Told::Reply(Reply::Stopped { stopped }));
            }),
            _ => Err(fault(FaultKind::Unsupported, "the supervisor does not know the request")),
        };
        if let Err(refusal) = refused {
            let refusal = Fault { serving: self.serves(), ..*refusal };
            let _ = answer.send(Told::Reply(Reply::Fault(Box::new(refusal))));
        }
    }

    fn activate(&mut self, release: &str, expect: u64, terms: Terms, answer: &Answer) -> Result<(), Box<Fault>> {
        let Terms { soak, who, listen, confirm, follow } = terms;
        let release = Release::decode(release.as_bytes()).map_err(|error| fault(FaultKind::Refused, chain(&error)))?;
        let layout = &self.node.layout;
        self.expect(expect)?;
        if !store::holds(layout, release.image) {
            return Err(fault(FaultKind::Missing, format!("the node holds no image {}", release.image.short())));
        }
        trust::check(layout, &release).map_err(|error| of_trust(&error))?;
        if release.run.as_ref().is_none_or(|run| run.user.is_none()) {
            users::give(layout, &self.app, release.run.as_ref()).map_err(|error| fault(FaultKind::Refused, chain(&error)))?;
        }
        super::super::prepare(layout, &self.app).map_err(failed)?;
        self.check_start(&release, expect + 1, listen)?;
        let record = generation::create(layout, &release, expect, &who, now()).map_err(failed)?;
        staged::remove(layout, &release).map_err(failed)?;
        self.begin(
            Wish { generation: record.number, release: Arc::new(release), listen, soak, what: "activate", who, confirm, follow },
            answer.clone(),
        );
        Ok(())
    }

    fn roll_back(&mut self, to: Option<&RollbackTarget>, expect: u64, terms: Terms, answer: &Answer) -> Result<(), Box<Fault>> {
        let Terms { soak, who, listen, confirm, follow } = terms;
        self.expect(expect)?;
        let records = generation::list(&self.node.layout, &self.app).map_err(failed)?;
        let target = choose(&records, expect, to).ok_or_else(|| fault(FaultKind::Missing, no_target(to)))?;
        if target.number == expect && self.serves().is_some_and(|serving| serving.pid.is_some()) {
            return Err(fault(FaultKind::Refused, format!("generation {expect} serves already")));
        }
        if !store::holds(&self.node.layout, target.release.image) {
            return Err(fault(FaultKind::Missing, format!("the image of generation {} is gone", target.number)));
        }
        let (generation, release) = (target.number, Arc::new(target.release.clone()));
        self.check_start(&release, generation, listen)?;
        self.begin(Wish { generation, release, listen, soak, what: "rollback", who, confirm, follow }, answer.clone());
        Ok(())
    }

    /// Refuses an earlier version that may not understand the data as it is since. What df itself puts back is not asked: that version served beside the new
    /// one until a moment ago.
    fn check_epoch(&self, to: Option<&RollbackTarget>, current: u64) -> Result<(), Box<Fault>> {
        let records = generation::list(&self.node.layout, &self.app).map_err(failed)?;
        // What is not there is said by whoever looks for it.
        let Some(target) = choose(&records, current, to) else { return Ok(()) };
        match crossed(&records, current, target) {
            None => Ok(()),
            Some((from, safe)) => {
                let (number, knows) = (target.number, target.release.data_epoch());
                let message = format!("generation {number} is for data of epoch {knows}, and the data is of epoch {from} now");
                Err(fault(FaultKind::Epoch { safe }, message))
            }
        }
    }

    fn start(&mut self, listen: IpAddr, answer: &Answer) -> Result<(), Box<Fault>> {
        let current = self.current();
        if current == 0 {
            return Err(fault(FaultKind::Missing, format!("{} has no current generation here", self.app)));
        }
        if let Some(serving) = self.serves().filter(|serving| serving.pid.is_some()) {
            let _ = answer.send(Told::Reply(Reply::Serving(serving)));
            return Ok(());
        }
        let release = self.release_of(current).map_err(failed)?;
        self.want(true, listen)?;
        self.crashes.clear();
        if release.run.is_none() {
            let serving = self.serves().ok_or_else(|| fault(FaultKind::Failed, "its record cannot be read"))?;
            let _ = answer.send(Told::Reply(Reply::Serving(serving)));
            return Ok(());
        }
        let run = self.serving.unwrap_or(self.next_run);
        self.next_run = self.next_run.max(run + 1);
        self.restart_at = None;
        let starting = Starting { run, restore: false, answer: Some(answer.clone()) };
        self.start_serving(run, current, &release, listen, starting).map_err(|error| {
            self.starting = None;
            self.close_listeners(run);
            self.versions.remove(&run);
            self.serving = None;
            let kind = if error.is_port() { FaultKind::PortHeld } else { FaultKind::StartFailed };
            fault(kind, chain(&error))
        })
    }

    /// A version that an operator asked to start is ready, or is not.
    pub(super) fn answer_start(&mut self, run: u64, result: Result<(), String>, outcomes: Vec<ProbeOutcome>, answer: &Answer) {
        let reply = match result {
            Ok(()) => self.serves().map(Reply::Serving),
            Err(why) => {
                if let Some(process) = self.versions.get_mut(&run).and_then(|version| version.process.take()) {
                    kill(&process);
                }
                self.close_listeners(run);
                self.versions.remove(&run);
                self.serving = None;
                Some(Reply::Fault(Box::new(Fault {
                    probes: outcomes,
                    serving: self.serves(),
                    ..*fault(FaultKind::NotReady, why)
                })))
            }
        };
        let reply = reply.unwrap_or_else(|| Reply::Fault(fault(FaultKind::Failed, "its record cannot be read")));
        let _ = answer.send(Told::Reply(reply));
    }

    /// Takes back what was confirmed here and failed elsewhere. It may be good: nobody knows, so no rollback goes there by itself.
    fn take_back(
        &mut self,
        expect: u64,
        to: u64,
        who: String,
        why: &str,
        listen: IpAddr,
        answer: &Answer,
    ) -> Result<(), Box<Fault>> {
        self.expect(expect)?;
        let layout = self.node.layout.clone();
        let why = df_core::text::shorten(why, 1024);
        generation::set_result(&layout, &self.app, expect, GenerationResult::Unknown, &why).map_err(failed)?;
        if to > 0 {
            let terms = Terms { soak: Duration::ZERO, who, listen, confirm: None, follow: None };
            return self.roll_back(Some(&RollbackTarget::Generation(to)), expect, terms, answer);
        }
        let release = self.release_of(expect).map_err(failed)?;
        let stopped = self.stop(true, false, false)?;
        generation::clear_current(&layout, &self.app).map_err(failed)?;
        self.remember("rollback", &who, 0, expect, &release, None);
        let _ = answer.send(Told::Reply(Reply::Stopped { stopped }));
        Ok(())
    }

    /// Somebody reaches the node, and wants what was activated to stay.
    fn confirm(&mut self, number: u64, answer: &Answer) -> Result<(), Box<Fault>> {
        match self.flight.as_mut().filter(|flight| flight.plan.new == number) {
            Some(flight) if matches!(flight.state, activation::State::Waiting { .. }) => {
                flight.confirmers.push(answer.clone());
                self.advance(activation::Event::Confirm);
                return Ok(());
            }
            Some(_) => return Err(fault(FaultKind::Refused, format!("generation {number} has not shown yet that it is well"))),
            None => {}
        }
        let current = self.current();
        if current != number {
            return Err(fault(
                FaultKind::Reverted,
                format!("generation {number} does not serve any more, generation {current} does"),
            ));
        }
        // The answer to the first confirmation was lost.
        let serving = self.serves().ok_or_else(|| fault(FaultKind::Failed, "its record cannot be read"))?;
        let _ = answer.send(Told::Reply(Reply::Serving(serving)));
        Ok(())
    }

    /// Somebody does not want to wait for what a soak shows.
    fn withdraw(&mut self, number: u64, who: &str, answer: &Answer) -> Result<(), Box<Fault>> {
        let found = self.flight.as_mut().filter(|flight| flight.plan.new == number && flight.state.can_be_withdrawn());
        let Some(flight) = found else {
            return Err(fault(FaultKind::Refused, format!("generation {number} is not on its soak")));
        };
        if flight.plan.old == 0 {
            return Err(fault(FaultKind::Refused, format!("nothing served before generation {number}")));
        }
        flight.withdrawers.push(answer.clone());
        self.advance(activation::Event::Withdraw(df_core::text::shorten(who, 200)));
        Ok(())
    }

    /// Asks the serving version its probes, on a thread.
    fn verify(&self, answer: &Answer) -> Result<(), Box<Fault>> {
        let run = self.serving.ok_or_else(|| fault(FaultKind::Missing, format!("{} does not run here", self.app)))?;
        let round = self.round(run).ok_or_else(|| fault(FaultKind::Missing, format!("{} does not run here", self.app)))?;
        let (generation, answer) = (self.versions[&run].generation, answer.clone());
        if self.versions[&run].process.is_none() {
            return Err(fault(FaultKind::Missing, format!("{} crashed and will be started again", self.app)));
        }
        thread::spawn(move || {
            let probes = round.ask();
            let _ = answer.send(Told::Reply(Reply::Verified { generation, probes }));
        });
        Ok(())
    }

    /// Returns the answer to who comes while an activation is in progress.
    fn busy(&self) -> Box<Fault> {
        let flight = self.flight.as_ref();
        let who = flight.map_or_else(String::new, |flight| flight.who.clone());
        let command = flight.map_or_else(String::new, |flight| format!("{} {}", flight.what, self.app));
        let message = format!("an activation of {} by {who} is in progress", self.app);
        fault(FaultKind::Locked(LockHolder { who, command, since: now() }), message)
    }

    /// Refuses what certainly cannot start, before anything moves: a program, a user or a file of variables that is missing, a port that somebody holds.
    fn check_start(&self, release: &Release, generation: u64, listen: IpAddr) -> Result<(), Box<Fault>> {
        let Some(section) = &release.run else { return Ok(()) };
        let places = start::places(section, listen);
        self.check_ports(&places).map_err(|error| fault(FaultKind::PortHeld, chain(&error)))?;
        let prepared = start::prepare(&self.node.layout, release, section, generation, &places, &start::Addresses::default());
        prepared.map(drop).map_err(|error| fault(FaultKind::StartFailed, chain(&error)))
    }

    /// Compares what an operator saw with what is.
    fn expect(&self, expect: u64) -> Result<(), Box<Fault>> {
        let found = generation::current(&self.node.layout, &self.app).map_err(failed)?;
        if found == expect {
            return Ok(());
        }
        Err(fault(
            FaultKind::Moved { found },
            format!("generation {found} is current, expected {expect}: somebody else was here"),
        ))
    }

    pub(super) fn want(&mut self, wanted: bool, listen: IpAddr) -> Result<(), Box<Fault>> {
        control::write_wanted(&self.node.layout, &self.app, Wanted { wanted, listen }, &mut self.wanted).map_err(failed)
    }
}

/// Returns where a rollback goes: what is named, else the previous good release.
fn choose<'a>(records: &'a [Record], current: u64, to: Option<&RollbackTarget>) -> Option<&'a Record> {
    let newest = |fits: &dyn Fn(&Record) -> bool| records.iter().rev().find(|record| fits(record));
    match to {
        None => generation::previous(records, current),
        Some(RollbackTarget::Generation(number)) => newest(&|record| record.number == *number),
        Some(RollbackTarget::Commit(prefix)) if prefix.len() >= 4 => {
            let of_commit = |record: &Record| record.release.commit.as_str().starts_with(prefix.as_str());
            newest(&|record| of_commit(record) && record.result == GenerationResult::Good).or_else(|| newest(&of_commit))
        }
        Some(RollbackTarget::Commit(_)) => None,
    }
}

/// Returns the form of the data that a version does not know, and the last generation before the current one that does; the current one when there is none.
fn crossed(records: &[Record], current: u64, target: &Record) -> Option<(u32, u64)> {
    let serving = &records.iter().find(|record| record.number == current)?.release;
    let from = serving.data_epoch();
    if target.release.data_epoch() == from {
        return None;
    }
    let is_safe = |record: &&Record| {
        let is_good = record.number < current && record.result == GenerationResult::Good;
        is_good && record.release != *serving && record.release.data_epoch() == from
    };
    Some((from, records.iter().rev().find(is_safe).map_or(current, |record| record.number)))
}

fn no_target(to: Option<&RollbackTarget>) -> String {
    match to {
        None => "no good generation of another release came before the current one".into(),
        Some(RollbackTarget::Generation(number)) => format!("there is no generation {number}"),
        Some(RollbackTarget::Commit(prefix)) => format!("no generation holds a commit {prefix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_rollback_goes_to_the_newest_good_generation_before_or_where_it_is_told() {
        use GenerationResult::{Bad, Good, Unknown};
        let record = |number: u64, commit: u64, result| fixture::record(number, fixture::release("greeter", commit), result);
        let records = [
            record(1, 0xaaaa, Good),
            record(2, 0xbbbb, Good),
            record(3, 0xcccc, Bad),
            record(4, 0xaaaa, Bad),
            record(5, 0xdddd, Unknown),
        ];
        let check = |current, to: Option<RollbackTarget>, expected: Option<u64>| {
            assert_eq!(choose(&records, current, to.as_ref()).map(|record| record.number), expected, "{current} {to:?}");
        };
        let commit = |n: u64| Some(RollbackTarget::Commit(format!("{n:040x}")));
        check(5, None, Some(2));
        check(2, None, Some(1));
        check(1, None, None);
        // A restart is no version to go back to.
        let restarted = [record(1, 0xaaaa, Good), record(2, 0xbbbb, Good), record(3, 0xbbbb, Good)];
        assert_eq!(choose(&restarted, 3, None).map(|record| record.number), Some(1));
        check(5, Some(RollbackTarget::Generation(3)), Some(3));
        check(5, Some(RollbackTarget::Generation(9)), None);
        check(5, commit(0xaaaa), Some(1));
        check(5, commit(0xcccc), Some(3));
        check(5, Some(RollbackTarget::Commit("00".into())), None);
    }

    #[test]
    fn a_version_that_does_not_know_the_data_is_told_from_one_that_does() {
        use GenerationResult::{Bad, Good};
        let record = |number: u64, epoch: u32, result| {
            let run = format!(r#"{{"exec":"a","ready":1,"drain":1,"data_epoch":{epoch}}}"#);
            let run = serde_json::from_str(&run).expect("a section");
            let release = Release { run: Some(run), ..fixture::release("greeter", number) };
            fixture::record(number, release, result)
        };
        let records = [record(1, 7, Good), record(2, 8, Good), record(3, 8, Bad), record(4, 8, Good)];
        let check = |current, to: usize, expected| {
            assert_eq!(crossed(&records, current, &records[to - 1]), expected, "{current} to {to}");
        };
        check(4, 2, None);
        check(4, 1, Some((8, 2)));
        check(2, 1, Some((8, 2)));
        check(1, 2, Some((7, 1)));
        check(9, 1, None);
    }
}
