//! Many writers and two collections on one bucket of a real server, each a process; some are killed or stopped at any request: nothing that was committed is lost.
//!
//! The members are this binary, run again with a role (see `role`). Some end themselves, by SIGKILL before or after one of their requests, or by SIGSTOP before it; the others are killed and
//! stopped from outside, whatever they do, when the server has counted so many requests. Who was stopped goes on after others have collected and fenced. All moments are drawn
//! from seeds, and nothing goes by a clock: all of it may be stopped for hours itself.
//!
//! `DF_COMMITS` says how many commits there are (200; 10,000 with `DF_FULL`), `DF_CAMPAIGN_REPORT` where the report goes.

mod disturbance;
mod judge;
mod member;
mod mortal;
mod progress;
mod report;
mod role;
mod stale;
mod versions;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use df_testkit::s3::Server;

use member::{Answer, Member, Seat};
use mortal::End;
use progress::{Leaving, Progress};
use report::Report;
use versions::Dice;

const WRITERS: u64 = 8;
const COLLECTORS: u64 = 2;
/// Releases of each application that a collection keeps.
const KEPT: usize = 2;
/// A collection begins after so many commits.
const BETWEEN: u64 = 7;
/// So many of the writers put at once, besides those that are stopped: with more of them most lose their swap most of the time, and nothing else is learned.
const AT_ONCE: u64 = 4;
/// Writers that may stop themselves. The others go on, so that there is somebody to wait for.
const STOPPING: u64 = 4;
/// Whoever is not ended and fails so often in a row has found something.
const FAILURES: u32 = 5;

/// What all take part in.
struct Campaign {
    server: Server,
    directory: tempfile::TempDir,
    commits: u64,
    /// Commits that are given out.
    taken: AtomicU64,
    progress: Progress,
    /// Where each member sits, to be killed and stopped there: writers first.
    seats: Vec<Arc<Seat>>,
    report: Report,
}

impl Campaign {
    fn new(commits: u64) -> Self {
        Self {
            server: Server::start(),
            directory: tempfile::tempdir().expect("a directory"),
            commits,
            taken: AtomicU64::new(0),
            progress: Progress::new(AT_ONCE),
            seats: (0..WRITERS + COLLECTORS).map(|_| Arc::default()).collect(),
            report: Report::default(),
        }
    }

    /// Puts version after version, each until it is acknowledged. Returns how many were.
    fn write(&self, writer: u64) -> u64 {
        let _leaving = Leaving(&self.progress);
        let (who, mut dice, mut member) = (format!("writer-{writer}"), Dice::new([writer, 77]), None);
        let mut acknowledged = 0;
        while !self.progress.is_draining() && self.taken.fetch_add(1, Ordering::Relaxed) < self.commits {
            self.until_done(&who, writer, &mut member, &format!("put {acknowledged}"), || {
                End::draw(&mut dice, 14, writer < STOPPING)
            });
            acknowledged += 1;
            self.progress.committed();
            if dice.below(4) == 0 {
                // Two are kept, and the next is not put yet: what was acknowledged is there, for a stranger too.
                self.until_done(&who, writer, &mut member, &format!("check {}", acknowledged - 1), || End::None);
            }
        }
        // Nobody may be left standing who waits for what does not come any more.
        self.progress.drain();
        acknowledged
    }

    /// Collects again and again.
    fn collect(&self, collector: u64) {
        let _leaving = Leaving(&self.progress);
        let (who, mut dice, mut member) = (format!("collector-{collector}"), Dice::new([collector, 99]), None);
        while self.progress.wait_for_commits(BETWEEN) {
            let words =
                self.until_done(&who, WRITERS + collector, &mut member, "collect", || End::draw(&mut dice, 40, collector == 0));
            self.report.collected(&words);
            self.progress.collected();
        }
    }

    /// Has a member do something, one life after the other, until it is done; returns what it says of it.
    fn until_done(
        &self,
        who: &str,
        seat: u64,
        member: &mut Option<Member>,
        what: &str,
        mut end: impl FnMut() -> End,
    ) -> Vec<u64> {
        let (is_put, mut failures) = (what.starts_with("put "), 0);
        loop {
            let alive =
                member.get_or_insert_with(|| Member::start(&self.server, self.directory.path(), who, &self.seats[seat as usize]));
            let turn = is_put.then(|| self.progress.turn());
            let answer = alive.ask(what, end(), || {
                self.report.stopped();
                drop(turn);
                self.progress.wait_for_others();
            });
            match answer {
                Answer::Done(words) => {
                    self.report.done(is_put, &words);
                    return words;
                }
                Answer::Died => {
                    self.report.died();
                    *member = None;
                }
                Answer::Failed(why) => {
                    self.report.failed(what, &why);
                    failures += 1;
                    assert!(failures < FAILURES, "{who}, {what}: {why}");
                }
            }
        }
    }

    fn n_commits() -> u64 {
        let full = if is_full() { 10_000 } else { 200 };
        std::env::var("DF_COMMITS").map_or(full, |text| text.parse().expect("a number of commits"))
    }
}

fn is_full() -> bool {
    std::env::var_os("DF_FULL").is_some()
}

#[test]
fn writers_and_collections_that_stop_or_die_at_any_request_lose_nothing() {
    let started = Instant::now();
    let campaign = &Campaign::new(Campaign::n_commits());
    let written = std::thread::scope(|scope| {
        let collectors: Vec<_> = (0..COLLECTORS).map(|n| scope.spawn(move || campaign.collect(n))).collect();
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(move || campaign.write(n))).collect();
        let disturbing = scope.spawn(|| campaign.disturb());
        let written: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        campaign.progress.end();
        let collected: Vec<_> = collectors.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        disturbing.join().expect("it moved to the end");
        collected.into_iter().for_each(|result| result.expect("a collector"));
        written.into_iter().map(|result| result.expect("a writer")).collect::<Vec<u64>>()
    });
    assert_eq!(written.iter().sum::<u64>(), campaign.commits);
    let read = campaign.judge(&written);
    let text = campaign.report.text(campaign.commits, campaign.server.counts(), started.elapsed(), read);
    print!("{text}");
    if let Some(path) = std::env::var_os("DF_CAMPAIGN_REPORT") {
        std::fs::write(path, text).expect("the report is written");
    }
    // How ten processes meet is chance: of few commits it may be that none is refused, or that nothing is packed anew.
    let has_tried_all = campaign.report.has_tried_all();
    println!(
        "{}",
        if has_tried_all { "Everything happened that this is about." } else { "Not everything happened that this is about." }
    );
    assert!(has_tried_all || !is_full(), "too little happened to mean anything");
}
