//! An activation that nobody has confirmed: it goes on, or `current` goes back.

use std::time::{Duration, Instant};

use df_wire::message::GenerationResult;

use super::super::activate::readiness;
use super::super::{App, Flight};
use crate::activation::{Plan, State, Style};
use crate::confirmation::{self, Armed, Duty, Found, Wait};
use crate::control;

impl App {
    /// Looks for an activation that nobody has confirmed, and lets `current` go back where nobody can any more; returns one that somebody may still confirm.
    pub(super) fn find_armed(&mut self) -> Option<(Armed, Wait)> {
        let (layout, current) = (self.node.layout.clone(), self.current());
        let armed = confirmation::read(&layout, &self.app).unwrap_or_else(|error| {
            eprintln!("{}: armed.json: {error}", self.app);
            None
        })?;
        let release = self.release_of(armed.new).ok();
        let runs = release.as_ref().is_some_and(|release| release.run.is_some());
        let lives = !runs || self.versions.values().any(|version| version.generation == armed.new && version.process.is_some());
        let boot = crate::process::boot().unwrap_or_default();
        match confirmation::decide(&armed, &Found { current, boot, now: confirmation::since_boot(), lives }) {
            Duty::Wait(wait) => return Some((armed, wait)),
            Duty::Forget => {}
            Duty::GoBack(why) => {
                self.judge(armed.new, GenerationResult::Bad, why);
                if let Some(release) = release {
                    self.remember("activate", &armed.who, armed.new, armed.old, &release, Some(why));
                }
                self.go_back(armed.old);
                return None;
            }
        }
        if let Err(error) = confirmation::disarm(&layout, &self.app) {
            eprintln!("{}: remove armed.json: {error}", self.app);
        }
        None
    }

    /// Goes on with an activation that still soaks, or waits for its confirmation.
    pub(super) fn wait_on(&mut self, armed: Armed, wait: Wait) {
        let Ok(release) = self.release_of(armed.new) else { return };
        let new_run = self.run_of(armed.new).unwrap_or_else(|| self.fresh_run());
        // Whoever was stopped for it is started again when it goes back; where it was there beside it, it only waits.
        let style = match self.versions.get(&new_run) {
            _ if release.run.is_none() => Style::Files,
            Some(version) if version.alone => Style::Exclusive,
            _ => Style::Beside,
        };
        let stopped = |app: &mut Self| (style == Style::Exclusive).then(|| app.stopped(armed.old)).flatten();
        let old_run = self.run_of(armed.old).or_else(|| stopped(self));
        let plan = Plan {
            new: armed.new,
            old: armed.old,
            old_runs: old_run.is_some(),
            style,
            readiness: readiness(&release),
            says_ready: false,
            ready: Duration::ZERO,
            soak: wait.soak.unwrap_or_default(),
            drain: Duration::ZERO,
            watch: None,
            zero_loss: false,
            confirm: Some(wait.confirm),
        };
        let state = match wait.soak {
            Some(left) => State::Soaking { until: left },
            None => State::Waiting { deadline: wait.confirm },
        };
        let (nobody, _) = std::sync::mpsc::channel();
        let listen = control::read_wanted(&self.node.layout, &self.app)
            .map_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |wanted| wanted.listen);
        self.flight = Some(Flight {
            plan,
            state,
            began: Instant::now(),
            new_run,
            old_run,
            release,
            listen,
            what: "activate",
            who: armed.who,
            outcomes: vec![],
            watch: None,
            answer: nobody,
            follow: None,
            confirmers: vec![],
            withdrawers: vec![],
            adopted: true,
            port_held: false,
        });
    }
}
