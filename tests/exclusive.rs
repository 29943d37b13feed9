//! `run.exclusive`: never two at once, and no client refused, also when the supervisor is killed -9 in the middle and what it had begun goes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use df_testkit::process::{Child, Run, wait_until};
use df_testkit::survivors;
use serde_json::Value;

use crate::support::odd_versions::odd;
use crate::support::{World, shorten};

const SOON: Duration = Duration::from_secs(60);

/// One that leaves a word when it meets another.
const ALONE: &str = "exclusive: true\n  env: { ALONE: \"1\", N: \"";

on_both! {
    a_supervisor_killed_while_the_new_one_is_on_trial_brings_the_old_one_back_and_clients_have_waited on odd().repo();
    a_supervisor_killed_before_the_new_one_has_begun_brings_the_old_one_back_and_clients_have_waited on odd().repo();
    a_supervisor_killed_together_with_the_one_on_trial_brings_the_old_one_back_and_clients_have_waited on odd().repo();
    a_supervisor_killed_while_it_brings_the_old_one_back_does_so_the_next_time_and_clients_have_waited on odd().repo();
    a_version_that_ends_after_its_supervisor_was_killed_in_the_soak_gives_its_clients_back on odd().repo();
    a_version_that_nobody_can_confirm_any_more_ends_before_the_old_one_starts on odd().repo();
}

/// A node where one version serves that must be alone.
struct Node<'a> {
    world: &'a World,
    old: String,
}

impl<'a> Node<'a> {
    fn new(world: &'a World, n: &str) -> Self {
        let old = odd().commit("good", &format!("{ALONE}{n}-old\" }}"), "");
        world.deploy(&old);
        Self { world, old }
    }

    /// Begins to deploy a version that soaks for long.
    fn deploy(&self, mode: &str, n: &str) -> Child {
        let next = odd().commit(mode, &format!("{ALONE}{n}-new\" }}"), "");
        let config = self.world.path("soaking.yaml");
        let text = "app: odd\nbuild: { include: { bin: bin } }\nrollout: { soak: 300s, confirm: 60s }\n";
        std::fs::write(&config, text).expect("written");
        self.world.df(["--config", &config.display().to_string(), "deploy", "--commit-hash", &next]).spawn()
    }

    fn data(&self, name: &str) -> PathBuf {
        self.world.data(1).join("odd").join(name)
    }

    /// Waits until the supervisor has written something down, and returns it.
    #[track_caller]
    fn wait_for<T>(&self, written: impl Fn(&Value) -> Option<T>) -> T {
        let record = self.world.node(1).join("run/odd.json");
        let is_so = || written(&serde_json::from_str(&std::fs::read_to_string(&record).ok()?).ok()?);
        wait_until(SOON, is_so).unwrap_or_else(|| panic!("{:?}", std::fs::read_to_string(&record)))
    }

    /// Waits until the supervisor has written down that the second generation does one of these; returns its process.
    #[track_caller]
    fn wait_for_state(&self, states: &[&str]) -> u32 {
        let pid = self.wait_for(|record| {
            let of_new = record["versions"].as_array()?.iter().find(|version| version["generation"] == 2)?;
            let is_so = states.iter().any(|state| of_new["state"] == *state);
            is_so.then(|| of_new["process"]["pid"].as_u64())?.and_then(|pid| u32::try_from(pid).ok())
        });
        self.world.here(pid)
    }

    /// Waits until the supervisor has written down that nothing runs, and that a run has the socket.
    #[track_caller]
    fn wait_for_socket_of(&self, run: u64) {
        self.wait_for(|record| {
            let has_it = record["groups"][0]["slots"].as_array()?.iter().any(|slot| *slot == run);
            (has_it && record["versions"].as_array()?.is_empty()).then_some(())
        });
    }

    /// Lets whoever opens a generation's log to write there wait for ever.
    fn block_log(&self, generation: u64) -> PathBuf {
        let path = self.world.node(1).join(format!("log/odd/{generation}.log"));
        let aside = path.with_extension("aside");
        // The one that runs, if it does, writes on.
        let _ = std::fs::rename(&path, aside);
        Run::new("mkfifo").arg(&path).ok();
        path
    }

    /// Kills the supervisor, which does not get to do anything more after the first of this.
    fn kill_supervisor_and(&self, then: impl FnOnce()) {
        let supervisors = self.world.pids(1, "supervise");
        supervisors.iter().for_each(|pid| survivors::send(*pid, libc::SIGSTOP));
        then();
        self.world.kill(1, "supervise");
    }

    /// Waits until a file is in the data.
    #[track_caller]
    fn wait_for_word(&self, name: &str) {
        assert!(wait_until(SOON, || self.data(name).exists().then_some(())).is_some(), "{name}");
    }

    /// Expects clients that wait to be answered by the old version, which has met nobody.
    #[track_caller]
    fn expect_went_back(&self, clients: Vec<TcpStream>) {
        for mut client in clients {
            let mut answer = String::new();
            client.set_read_timeout(Some(SOON)).expect("set");
            let read = client.read_to_string(&mut answer);
            assert!(read.is_ok() && answer.contains(&self.old), "a client that waited: {read:?} {answer}");
        }
        self.world.expect_serving(&self.old);
        assert!(!self.data("two").exists(), "two at once");
    }

    /// Clients whose request is sent, and who wait in the queue of whoever accepts next.
    fn clients(&self) -> Vec<TcpStream> {
        let client = |_| {
            let mut client = TcpStream::connect(self.world.at(1)).expect("nobody is refused");
            client.write_all(b"GET / HTTP/1.1\r\nHost: odd\r\nConnection: close\r\n\r\n").expect("sent");
            client
        };
        (0..5).map(client).collect()
    }
}

fn a_supervisor_killed_while_the_new_one_is_on_trial_brings_the_old_one_back_and_clients_have_waited(world: &World) {
    let node = Node::new(world, "1");
    let df = node.deploy("hangs", "1");
    node.wait_for_state(&["starting", "trial"]);
    let clients = node.clients();
    node.world.kill(1, "supervise");
    node.expect_went_back(clients);
    assert_ne!(df.finish(SOON).code, Some(0));
}

fn a_supervisor_killed_before_the_new_one_has_begun_brings_the_old_one_back_and_clients_have_waited(world: &World) {
    let node = Node::new(world, "4");
    let log = node.block_log(2);
    let df = node.deploy("good", "4");
    node.wait_for_socket_of(2);
    let clients = node.clients();
    node.kill_supervisor_and(|| std::fs::remove_file(&log).expect("removed"));
    node.expect_went_back(clients);
    assert_ne!(df.finish(SOON).code, Some(0));
}

fn a_supervisor_killed_together_with_the_one_on_trial_brings_the_old_one_back_and_clients_have_waited(world: &World) {
    let node = Node::new(world, "5");
    let df = node.deploy("hangs", "5");
    let new = node.wait_for_state(&["starting", "trial"]);
    let clients = node.clients();
    node.kill_supervisor_and(|| survivors::send(new, libc::SIGKILL));
    node.expect_went_back(clients);
    assert_ne!(df.finish(SOON).code, Some(0));
}

fn a_supervisor_killed_while_it_brings_the_old_one_back_does_so_the_next_time_and_clients_have_waited(world: &World) {
    let node = Node::new(world, "6");
    let log = node.block_log(1);
    let df = node.deploy("good", "6");
    survivors::send(node.wait_for_state(&["serving"]), libc::SIGKILL);
    node.wait_for_socket_of(1);
    let clients = node.clients();
    node.kill_supervisor_and(|| std::fs::remove_file(&log).expect("removed"));
    node.expect_went_back(clients);
    assert_ne!(df.finish(SOON).code, Some(0));
}

fn a_version_that_ends_after_its_supervisor_was_killed_in_the_soak_gives_its_clients_back(world: &World) {
    let node = Node::new(world, "2");
    let df = node.deploy("told", "2");
    node.wait_for_state(&["serving"]);
    node.world.kill(1, "supervise");
    std::fs::write(node.data("deaf"), "").expect("written");
    node.wait_for_word("is-deaf");
    let clients = node.clients();
    std::fs::write(node.data("dies"), "").expect("written");
    node.expect_went_back(clients);
    df.finish(SOON).expect_code(7);
}

fn a_version_that_nobody_can_confirm_any_more_ends_before_the_old_one_starts(world: &World) {
    let node = Node::new(world, "3");
    let mut df = node.deploy("told", "3");
    node.wait_for_state(&["serving"]);
    df.kill();
    std::fs::write(node.data("deaf"), "").expect("written");
    node.wait_for_word("is-deaf");
    node.world.kill_both(1);
    shorten(&node.world.node(1).join("apps/odd/armed.json"), 0);
    let clients = node.clients();
    node.world.df(["verify"]).output();
    node.expect_went_back(clients);
}
