//! One scenario, two sorts of node: one whose supervisor and holder look after each other, and a machine whose systemd starts the supervisor and holds its sockets.
//!
//! The promises are the same, so they are written once. What differs in how a node is reached or ended is here.

use std::path::{Path, PathBuf};

use df_testkit::process::{Run, wait_until};
use df_testkit::survivors;

use super::machine::{DATA, Machine, ROOT, TMP, UNIT};
use super::{DEADLINE, World, counts};

/// Makes two tests of each scenario: `alone::NAME`, on a node in a directory, and `with_systemd::NAME`, on a machine with systemd, where one can be had.
#[allow(unused_macros, reason = "benches share this file, and have no tests")]
macro_rules! on_both {
    ($($scenario:ident on $repo:expr;)+) => {
        mod alone {
            use super::*;
            $(#[test]
            fn $scenario() {
                super::$scenario(&$crate::support::World::of($repo, 1));
            })+
        }

        mod with_systemd {
            use super::*;
            $(#[test]
            fn $scenario() {
                if let Some(world) = $crate::support::World::with_systemd($repo, "root") {
                    super::$scenario(&world);
                }
            })+
        }
    };
}

impl World {
    /// Boots a machine with systemd, and adds it as the node n1 as it is for this user; none where no machine can be had.
    #[track_caller]
    pub fn with_systemd(repo: &Path, user: &str) -> Option<Self> {
        let mut world = Self::empty(repo, Some(Machine::boot()?));
        let ip = world.machine().ip();
        world.df(["add", &world.machine().address(user), "--name", "n1", "--listen", &ip.to_string()]).ok();
        world.addresses.push(ip);
        Some(world)
    }

    /// Returns the machine that its node is.
    #[track_caller]
    pub fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("the node is a machine")
    }

    /// Whether systemd starts the supervisor; then there is no holder.
    pub fn has_systemd(&self) -> bool {
        self.machine.is_some()
    }

    /// Returns where the data of a node's applications lie.
    pub fn data(&self, n: usize) -> PathBuf {
        self.machine.as_ref().map_or_else(|| self.node(n).join("data"), |machine| machine.path(DATA))
    }

    /// Returns where a node's applications have what they may lose.
    pub fn tmp(&self, n: usize) -> PathBuf {
        self.machine.as_ref().map_or_else(|| self.node(n).join("tmp"), |machine| machine.path(TMP))
    }

    /// Lists what runs on a node.
    pub fn processes(&self, n: usize) -> Vec<u32> {
        self.machine.as_ref().map_or_else(|| survivors::running_under(&self.node(n)), Machine::processes)
    }

    /// Returns the process that said this of itself.
    #[track_caller]
    pub fn process(&self, said: &str) -> u32 {
        let (_, pid) = said.split_once("pid=").expect("it says its number");
        self.here(pid.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a number"))
    }

    /// Returns the number that a process of the node has here.
    #[track_caller]
    pub fn here(&self, pid: u32) -> u32 {
        self.machine.as_ref().map_or(pid, |machine| machine.process(pid))
    }

    /// Kills the program that said this of itself.
    #[track_caller]
    pub fn kill_program(&self, said: &str) {
        let pid = self.process(said);
        survivors::send(pid, libc::SIGKILL);
        assert!(wait_until(DEADLINE, || survivors::has_ended(pid).then_some(())).is_some(), "it does not die");
    }

    /// Returns whether the node can count what all processes of a version use together.
    pub fn counts(&self) -> bool {
        // Not before systemd 254, and the machine has 252.
        self.machine.is_none() && counts()
    }

    /// Returns a df-node that the node has, as one that lies on its disk.
    pub fn program(&self) -> PathBuf {
        let mut programs = std::fs::read_dir(self.node(1).join("bin")).expect("df-node is there").flatten();
        programs.next().expect("one program").path()
    }

    /// Returns a run of a df-node that lies on the node, as its owner types it.
    pub fn df_node(&self, program: &Path, doing: &str) -> Run {
        let node = self.path("n1").display().to_string();
        let [root, data, tmp] = match &self.machine {
            Some(_) => [ROOT, DATA, TMP].map(str::to_owned),
            None => [node.clone(), format!("{node}/data"), format!("{node}/tmp")],
        };
        let words = [doing, "--root", &root, "--data", &data, "--tmp", &tmp];
        match &self.machine {
            Some(machine) => machine.as_root(&format!("{} {}", program.display(), words.join(" "))),
            None => Run::new(program).args(words),
        }
    }

    /// Ends all that runs on the node at once, as when somebody pulls the plug, but for what its disk has.
    #[track_caller]
    pub fn cut(&self) {
        match &self.machine {
            Some(machine) => machine.cut(),
            None => {
                survivors::kill_under(&self.node(1));
                self.wait_for_the_lock();
            }
        }
    }

    /// Ends all that runs on the node, in order where it is a machine.
    #[track_caller]
    pub fn shut_down(&self) {
        if let Some(machine) = &self.machine { machine.shut_down() } else { self.cut() }
    }

    /// Starts what a boot starts: the machine, or its unit where the machine runs; else the supervisor, as a crontab does.
    #[track_caller]
    pub fn boot(&self) {
        if let Some(machine) = &self.machine {
            return machine.start_again();
        }
        // A process that was killed holds its locks until it is gone, and a supervisor that finds the lock taken leaves the node to the other.
        self.wait_for_the_lock();
        let supervisor = self.df_node(&self.program(), "supervise").spawn();
        self.booted.lock().expect("no panic while locked").push(supervisor);
    }

    /// Waits until what was booted has ended by itself, and as it should.
    #[track_caller]
    pub fn wait_for_a_good_end(&self) {
        let Some(machine) = &self.machine else {
            let supervisor = self.booted.lock().expect("no panic while locked").pop();
            return drop(supervisor.expect("it was booted").finish(DEADLINE).expect_code(0));
        };
        let ended = wait_until(DEADLINE, || (machine.property("ActiveState") == "inactive").then_some(()));
        assert!(ended.is_some() && machine.property("Result") == "success", "{}", machine.property("ActiveState"));
    }

    fn wait_for_the_lock(&self) {
        let lock = std::fs::File::open(self.node(1).join("run/supervisor.lock")).expect("there was one");
        assert!(wait_until(DEADLINE, || lock.try_lock().ok()).is_some(), "the supervisor does not end");
    }

    /// Ends who owns the sockets of the node, or whoever holds them for it: in turn, where these are two. Returns how many were ended; nobody waits for the next.
    #[track_caller]
    pub fn disturb(&self, turn: u64) -> usize {
        let odd = turn % 2 == 1;
        match &self.machine {
            // The holder is systemd itself, so here it is told to end the supervisor.
            Some(machine) if odd => {
                machine.run(&format!("systemctl restart --no-block {UNIT}"));
                1
            }
            None if odd && self.kill(1, "hold") > 0 => 1,
            _ => self.kill(1, "supervise"),
        }
    }
}
