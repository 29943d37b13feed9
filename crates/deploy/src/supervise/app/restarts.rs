//! A program that ended by itself is started again, later each time, and given up when it ends too often.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{App, Starting};
use crate::history;
use crate::supervise::words;

/// After which pauses a program is started again, and when it is not any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The first pause; the next is twice as long, and so on.
    first: Duration,
    /// But no pause is longer.
    longest: Duration,
    /// So many crashes within `window`, and it is given up.
    limit: usize,
    /// What was longer ago counts no more.
    window: Duration,
}

/// The pace of every application.
pub(super) const PACE: Pace =
    Pace { first: Duration::from_millis(500), longest: Duration::from_secs(30), limit: 10, window: Duration::from_secs(600) };

impl Pace {
    /// Takes note of a crash; returns after which pause the program starts again, and whether it is one too many for that.
    fn after(&self, crashes: &mut VecDeque<Instant>, now: Instant) -> (Duration, bool) {
        // What is still to come was written down in a former boot, when the clock since boot was further.
        crashes.retain(|crash| now.checked_duration_since(*crash).is_some_and(|since| since < self.window));
        crashes.push_back(now);
        let factor = 1_u32 << (crashes.len() - 1).min(16);
        (self.first.saturating_mul(factor).min(self.longest), crashes.len() >= self.limit)
    }
}

impl App {
    /// Plans the next start of a program that ended by itself, or gives it up.
    pub(super) fn crashed(&mut self, reason: &str) {
        let Some(run) = self.serving else { return };
        let Some(version) = self.versions.get(&run) else { return };
        let (generation, release) = (version.generation, version.release.clone());
        self.remember("crash", "supervisor", generation, generation, &release, Some(reason));
        if let Some(Starting { answer: Some(_), .. }) = &self.starting {
            return self.started(run, Err(reason.to_owned()), vec![]);
        }
        if self.back_off() {
            let minutes = self.pace.window.as_secs() / 60;
            let why = format!("given up: it crashed {} times in {minutes} minutes, the last time: {reason}", self.crashes.len());
            eprintln!("{} generation {generation}: {why}", self.app);
            self.note(generation, &why);
            self.remember(history::GIVE_UP, "supervisor", generation, generation, &release, Some(&why));
            self.abandon(run);
        }
    }

    /// Plans the next attempt, later each time; returns whether too many failed lately.
    pub(super) fn back_off(&mut self) -> bool {
        let now = Instant::now();
        let (pause, is_over) = self.pace.after(&mut self.crashes, now);
        self.restart_at = Some(now + pause);
        is_over
    }

    /// Closes the listeners of what serves: clients are refused, not left hanging.
    fn abandon(&mut self, run: u64) {
        self.restart_at = None;
        self.starting = None;
        self.close_listeners(run);
        self.versions.remove(&run);
        self.serving = None;
        self.write_records();
    }

    /// Starts what serves again, on the listeners where its clients wait.
    pub(super) fn restart(&mut self) {
        let Some((run, version)) = self.serving.and_then(|run| Some((run, self.versions.get(&run)?))) else { return self.boot() };
        if version.process.is_some() {
            return;
        }
        let (generation, release, listen) = (version.generation, version.release.clone(), version.listen);
        let starting = Starting { run, restore: false, answer: None };
        if let Err(error) = self.start_serving(run, generation, &release, listen, starting) {
            let why = words(&error);
            eprintln!("{} generation {generation}: {why}", self.app);
            self.starting = None;
            self.crashed(&format!("it could not be started: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _};
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::unix::net::UnixStream;

    use df_wire::message::HistoryEntry;

    use super::super::tests::{app, release};
    use super::*;
    use crate::control::{self, Wanted};
    use crate::generation;
    use crate::launch::tests::launcher;
    use crate::logs::Log;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_the_tenth_crash_in_ten_minutes_is_the_last() {
        let (begin, mut crashes) = (Instant::now(), VecDeque::new());
        let mut after = |s: u64| PACE.after(&mut crashes, begin + Duration::from_secs(s));
        let found: Vec<(u64, bool)> =
            (0..10).map(|n| after(n * 60)).map(|(pause, over)| (pause.as_millis() as u64, over)).collect();
        let pauses = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000];
        assert_eq!(found, (1..).zip(pauses).map(|(n, pause)| (pause, n == 10)).collect::<Vec<_>>());
        // The first two are longer ago by now: eight are left, and this one.
        assert_eq!(after(661), (Duration::from_secs(30), false));
        assert_eq!(after(662), (Duration::from_secs(30), true));
        assert_eq!(after(662 + 600), (Duration::from_millis(500), false), "nobody remembers any of them");
    }

    #[test]
    fn a_crash_after_a_reboot_is_not_one_too_many_because_of_those_before() {
        let now = Instant::now();
        let mut crashes = (1..10).map(|n| now + Duration::from_secs(n * 86_400)).collect();
        assert_eq!(PACE.after(&mut crashes, now), (Duration::from_millis(500), false));
        assert_eq!(crashes.len(), 1);
    }

    /// Hears what happens until there is nothing to wait for.
    fn settle(app: &mut App) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !app.gave_up() {
            assert!(Instant::now() < deadline, "it goes on and on");
            app.step();
        }
    }

    #[test]
    fn a_program_that_crashes_on_and_on_is_given_up_and_its_clients_wait_until_then_and_are_refused_after() {
        let (_dir, layout) = crate::fixture::layout();
        let place = tempfile::Builder::new().prefix("df-r").tempdir_in("/tmp").expect("a directory");
        let socket = place.path().join("a.sock");
        let mut app = app(layout.clone(), launcher());
        app.pace = Pace { first: Duration::from_millis(1), longest: Duration::from_millis(4), ..PACE };
        crate::supervise::prepare(&layout, &app.app).expect("made");
        let release = release(&layout, &socket, "echo it starts; exit 3");
        let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
        generation::create(&layout, &release, 0, "me", crate::serve::now()).expect("made");
        generation::set_current(&layout, &app.app, 1).expect("current");
        control::write_wanted(&layout, &app.app, Wanted { wanted: true, listen }, &mut None).expect("written");
        app.boot();
        let mut waits = UnixStream::connect(&socket).expect("a client waits at the socket, whoever runs");
        settle(&mut app);

        let entries = history::last(&layout.history(&app.app), 100).expect("read");
        let of = |what: &str| entries.iter().filter(|entry| entry.what == what).collect::<Vec<&HistoryEntry>>();
        assert_eq!((of("boot").len(), of("crash").len(), of(history::GIVE_UP).len()), (1, 10, 1), "{entries:?}");
        let why = "given up: it crashed 10 times in 10 minutes, the last time: the program ended: exit status 3";
        assert_eq!(history::given_up(&layout.history(&app.app), 1).expect("read").as_deref(), Some(why));
        assert_eq!(history::given_up(&layout.history(&app.app), 2).expect("read"), None, "that is another generation");
        let log = Log::open(&layout.log(&app.app, 1)).and_then(|mut log| log.tail(100)).expect("read");
        assert_eq!(String::from_utf8_lossy(&log), format!("{}df-node: {why}\n", "it starts\n".repeat(10)));
        // Nobody is left hanging, and whoever waited is let go.
        let refused = UnixStream::connect(&socket).expect_err("nobody listens");
        assert!([ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&refused.kind()), "{refused}");
        waits.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        let heard = waits.read(&mut [0]);
        assert!(matches!(&heard, Ok(0)) || heard.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{heard:?}");
        app.show();
        assert!(app.idle.load(std::sync::atomic::Ordering::SeqCst), "nothing keeps the supervisor");
    }
}
