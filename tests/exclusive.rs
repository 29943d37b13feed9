//! `run.exclusive`: never two at once, and no client refused, also when the supervisor is killed -9 in the middle and what it had begun goes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use df_testkit::process::{Child, wait_until};

use crate::support::odd_versions::odd;
use crate::support::{World, shorten};

const SOON: Duration = Duration::from_secs(60);

/// One that leaves a word when it meets another.
const ALONE: &str = "exclusive: true\n  env: { ALONE: \"1\", N: \"";

/// A node where one version serves that must be alone.
struct Node {
    world: World,
    old: String,
}

impl Node {
    fn new(n: &str) -> Self {
        let (odd, n) = (odd(), format!("{ALONE}{n}-old\" }}"));
        let (world, old) = (World::of(odd.repo(), 1), odd.commit("good", &n, ""));
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
        self.world.node(1).join("data/odd").join(name)
    }

    /// Waits until the supervisor has written down that the second generation does one of these.
    #[track_caller]
    fn wait_for_state(&self, states: &[&str]) {
        let record = self.world.node(1).join("run/odd.json");
        let is_so = || {
            let record = std::fs::read_to_string(&record).ok()?;
            let record: serde_json::Value = serde_json::from_str(&record).ok()?;
            let of_new = record["versions"].as_array()?.iter().find(|version| version["generation"] == 2)?;
            states.iter().any(|state| of_new["state"] == *state).then_some(())
        };
        assert!(wait_until(SOON, is_so).is_some(), "{:?}", std::fs::read_to_string(&record));
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

#[test]
fn a_supervisor_killed_while_the_new_one_is_on_trial_brings_the_old_one_back_and_clients_have_waited() {
    let node = Node::new("1");
    let df = node.deploy("hangs", "1");
    node.wait_for_state(&["starting", "trial"]);
    let clients = node.clients();
    node.world.kill(1, "supervise");
    node.expect_went_back(clients);
    assert_ne!(df.finish(SOON).code, Some(0));
}

#[test]
fn a_version_that_ends_after_its_supervisor_was_killed_in_the_soak_gives_its_clients_back() {
    let node = Node::new("2");
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

#[test]
fn a_version_that_nobody_can_confirm_any_more_ends_before_the_old_one_starts() {
    let node = Node::new("3");
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
