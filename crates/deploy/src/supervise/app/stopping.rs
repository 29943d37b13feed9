//! Ending what runs because somebody wants that: in order, and at once if somebody does not want to wait any more.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use df_wire::message::{Fault, FaultKind};
use df_wire::{Reply, Request};

use super::hearing::Said;
use super::watching::{end, kill};
use super::{App, Message, Told};
use crate::activation;
use crate::control;
use crate::process::Process;
use crate::serve::fault;

/// A process that is to end, what it says until then, and how long it has for that.
struct Ending {
    generation: u64,
    process: Arc<Process>,
    said: Arc<Said>,
    drain: Duration,
}

impl App {
    /// Ends what serves, and with `all` every other version too. Listeners are closed: clients are refused, not left hanging. `again`: it stays wanted.
    pub(super) fn stop(&mut self, all: bool, at_once: bool, again: bool) -> Result<Vec<(u64, i32)>, Box<Fault>> {
        let listen =
            control::read_wanted(&self.node.layout, &self.app).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |wanted| wanted.listen);
        if self.current() > 0 && !again {
            self.want(false, listen)?;
        }
        (self.restart_at, self.starting) = (None, None);
        let ends = self.doom(all);
        let stopped: Vec<(u64, i32)> = ends.iter().map(|ending| (ending.generation, ending.process.pid() as i32)).collect();
        for ending in &ends {
            let process = &ending.process;
            let _ = if at_once { process.kill_all() } else { process.signal(rustix::process::Signal::TERM) };
        }
        // Told first, then closed: a program that drains ends what it has accepted, and nobody new gets in.
        self.close_all();
        let impatient = self.await_end(ends, at_once);
        if let Ok(release) = self.release_of(self.current()) {
            self.remember("stop", "operator", self.current(), self.current(), &release, None);
        }
        self.write_records();
        for answer in impatient {
            let _ = answer.send(Told::Reply(Reply::Stopped { stopped: stopped.clone() }));
        }
        Ok(stopped)
    }

    /// Ends at once what is under way, and what takes part in it: an activation. What it was to change is as before, and nothing runs. A stop that waits ends elsewhere, where it waits.
    pub(super) fn halt(&mut self, all: bool, who: &str) -> Result<Vec<(u64, i32)>, Box<Fault>> {
        if self.flight.is_none() {
            return Err(fault(FaultKind::Refused, "nothing is under way that could be ended"));
        }
        let stopped = self.stop(all, true, false)?;
        self.advance(activation::Event::Halt(df_core::text::shorten(who, 200)));
        Ok(stopped)
    }

    /// Takes the versions that are to end out of those that are known: what serves, what takes part in an activation, and with `all` those that drain.
    fn doom(&mut self, all: bool) -> Vec<Ending> {
        let serving = self.serving.take();
        let of_flight = self.flight.as_ref().map(|flight| (Some(flight.new_run), flight.old_run)).unwrap_or_default();
        let named = [serving, of_flight.0, of_flight.1];
        let doomed: Vec<u64> = self.versions.keys().copied().filter(|run| all || named.contains(&Some(*run))).collect();
        let ending = |run: u64| {
            let version = self.versions.remove(&run)?;
            let drain = version.release.run.as_ref().map_or(Duration::ZERO, |section| section.drain);
            Some(Ending { generation: version.generation, process: version.process?, said: version.said, drain })
        };
        doomed.into_iter().filter_map(ending).collect()
    }

    /// Waits until all have ended. Whoever wants it at once meanwhile has them killed, and is returned to be answered; what else is asked waits, as it would behind a stop that is quick.
    fn await_end(&mut self, ends: Vec<Ending>, at_once: bool) -> Vec<Sender<Told>> {
        let processes: Vec<Arc<Process>> = ends.iter().map(|ending| ending.process.clone()).collect();
        let mut n_left = ends.len();
        for Ending { process, said, drain, .. } in ends {
            let inbox = self.inbox.clone();
            thread::spawn(move || {
                if at_once {
                    kill(&process);
                } else {
                    end(&process, drain, &said);
                }
                let _ = inbox.send(Message::Stopped);
            });
        }
        let mut impatient = vec![];
        while n_left > 0 {
            let Ok(message) = self.messages.recv() else { break };
            match message {
                Message::Stopped => n_left -= 1,
                Message::Ask { request, answer } if matches!(*request, Request::Halt { .. }) => {
                    // Who waits for each of them sees its end.
                    processes.iter().for_each(|process| drop(process.kill_all()));
                    impatient.push(answer);
                }
                // What was shown last holds until they have ended: a supervisor that sees nothing run would leave.
                Message::Show { seen } => drop(seen.send(())),
                other => self.later.push_back(other),
            }
        }
        impatient
    }
}
