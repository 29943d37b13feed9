//! A bucket whose certificate is of an authority that only its owners know: df and the nodes are told of it by a file, and believe nobody whom they were not told of.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use df_testkit::net;
use df_testkit::process::{Output, Run};
use df_testkit::repo::Repo;
use df_testkit::s3::{Request, Server};
use df_testkit::sshd::Sshd;

use crate::support::{self, World};

/// An application of a few bytes, a bucket by HTTPS, and an ssh server with nodes.
struct Owners {
    world: World,
    server: Server,
    sshd: Sshd,
    _source: tempfile::TempDir,
}

impl Owners {
    fn new() -> Self {
        let source = tempfile::Builder::new().prefix("df-owners").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let config =
            "app: files\nbuild: { command: \"mkdir out && cp a out\", output: out }\ncache: { remote: \"s3://df-test/app\" }\n";
        repo.commit(&[("df.yaml", config), ("a", "a file\n")], "one");
        let world = World::of(repo.dir(), 0);
        let sshd = Sshd::start(&world.path("sshd"), net::own_loopback());
        fs::DirBuilder::new().mode(0o700).create(world.path("run")).expect("made");
        support::write_node_program(&world.path("programs"), "");
        let owners = Self { world, server: Server::start_with_tls(), sshd, _source: source };
        owners.df(&["build"]).ok();
        owners
    }

    /// `df` of somebody who was told of the authority.
    fn df(&self, words: &[&str]) -> Run {
        self.stranger(words).env("AWS_CA_BUNDLE", self.server.authority())
    }

    /// `df` of somebody who was not.
    fn stranger(&self, words: &[&str]) -> Run {
        let run = self.world.df([]).args(words).env("XDG_CACHE_HOME", self.world.path("cache"));
        let run = run.env("DF_NODE_PROGRAMS", self.world.path("programs")).env("XDG_RUNTIME_DIR", self.world.path("run"));
        // This machine may have a bundle of its own.
        let run = run.env("DF_SSH_CONFIG", &self.sshd.ssh_config).env_remove("AWS_CA_BUNDLE");
        self.server.env().into_iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    fn root(&self, n: usize) -> PathBuf {
        self.world.path("nodes").join(n.to_string())
    }

    /// Has a node fetch the image; returns what was told, and what was asked of the bucket by URL.
    fn fetching(&self, n: usize) -> (Output, usize) {
        self.server.forget();
        let address = format!("ssh://{}{}", self.sshd.host(), self.root(n).display());
        let output = self.df(&["--json", "cp", "--through-cache", "--address", &address]).ok();
        let is_presigned = |request: &&Request| request.query.contains("X-Amz-Signature");
        (output, self.server.requests().iter().filter(is_presigned).count())
    }
}

#[test]
fn df_believes_an_authority_that_a_file_names_and_no_other() {
    let owners = Owners::new();
    let persist = ["cache", "persist", "--s3-bucket", "df-test"];
    let verify = ["cache", "verify", "--address", "s3://df-test"];
    let refused = owners.stranger(&persist).output().expect_code(9);
    assert!(refused.stderr.contains("its certificate is not believed"), "{refused}");
    assert!(refused.stderr.contains("AWS_CA_BUNDLE"), "it says what to do: {refused}");
    assert!(owners.server.requests().is_empty(), "nothing was said to whom nobody believes");
    owners.df(&persist).ok();
    owners.df(&verify).ok();
    // As other programs are told, for all that they ask.
    owners.stranger(&verify).env("SSL_CERT_FILE", owners.server.authority()).ok();

    let another = Server::start_with_tls();
    let refused = owners.stranger(&verify).env("AWS_CA_BUNDLE", another.authority()).output().expect_code(9);
    assert!(refused.stderr.contains("its certificate is not believed"), "{refused}");
    let (missing, empty) = (owners.world.path("missing.pem"), owners.world.path("empty.pem"));
    fs::write(&empty, "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n").expect("written");
    for file in [missing, empty] {
        let refused = owners.stranger(&verify).env("AWS_CA_BUNDLE", &file).output().expect_code(2);
        assert!(refused.stderr.contains(&file.display().to_string()), "{refused}");
    }
}

#[test]
fn a_node_behind_ssh_fetches_from_a_bucket_whose_authority_a_file_of_its_own_names() {
    let owners = Owners::new();
    // Who was not told is sent the bytes.
    let (output, n_asked) = owners.fetching(1);
    let copied = &output.events("copied")[0];
    assert!(copied["through_cache"] != true && n_asked == 0, "{output}");
    let notes: String = output.events("note").iter().map(|note| note["message"].to_string()).collect();
    assert!(notes.contains("127.0.0.1 is not believed") && notes.contains("UnknownIssuer"), "{notes}");

    fs::create_dir_all(owners.root(2)).expect("made");
    fs::copy(owners.server.authority(), owners.root(2).join("ca.pem")).expect("copied");
    let (output, n_asked) = owners.fetching(2);
    let copied = &output.events("copied")[0];
    assert!(copied["through_cache"] == true && n_asked > 0, "{output}");

    fs::create_dir_all(owners.root(3)).expect("made");
    fs::write(owners.root(3).join("ca.pem"), "nothing").expect("written");
    let (output, n_asked) = owners.fetching(3);
    assert!(output.events("copied")[0]["through_cache"] != true && n_asked == 0, "{output}");
    let notes: String = output.events("note").iter().map(|note| note["message"].to_string()).collect();
    assert!(notes.contains("ca.pem has no certificate of an authority"), "{notes}");
}
