//! Bad input gets a clear error that names the thing, and nothing changes.

use std::path::Path;
use std::time::Duration;

use df_testkit::faults::{self, Tmpfs};
use df_testkit::net;
use df_testkit::process::{Output, Run};
use df_testkit::repo::Repo;

use crate::support::{World, df, versions};

/// Expects an exit code, a message on standard error that names the thing, and no escape code in it.
#[track_caller]
fn refused(output: Output, code: i32, words: &[&str]) {
    let output = output.expect_code(code);
    for word in words {
        assert!(output.stderr.contains(word), "expected \"{word}\" in: {}", output.stderr);
    }
    assert!(!output.stderr.contains('\u{1b}'), "an escape code reached the terminal: {:?}", output.stderr);
}

/// Makes a repository with these files and returns it with a place for state.
fn repository(dir: &Path, files: &[(&str, &str)]) -> Repo {
    let repo = Repo::new(&dir.join("repo"));
    if !files.is_empty() {
        repo.commit(files, "a commit");
    }
    repo
}

#[test]
fn no_df_yaml() {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = repository(dir.path(), &[("README", "nothing to build\n")]);
    refused(df(repo.dir(), &dir.path().join("state")).arg("build").output(), 2, &["df.yaml", "df init"]);
}

#[test]
fn a_df_yaml_with_a_mistake() {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = repository(dir.path(), &[("df.yaml", "app: greeter\nbulid:\n  command: make\n")]);
    refused(df(repo.dir(), &dir.path().join("state")).arg("build").output(), 2, &["df.yaml:2:1", "bulid", "build"]);
}

/// The machine is a user namespace in which no other can be made.
#[test]
fn a_machine_that_cannot_shut_a_build_in_is_named_with_the_line_that_mends_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let repo =
        repository(dir.path(), &[("df.yaml", "app: files\nbuild: { command: \"mkdir out; touch out/x\", output: out }\n")]);
    let state = dir.path().join("state");
    let no_more = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let build = [env!("CARGO_BIN_EXE_df").as_ref(), "-C".as_ref(), repo.dir(), "--state".as_ref(), &state, "build".as_ref()];
    let run = Run::new("unshare").args(["--user", "--map-root-user", "sh", "-c", no_more]).args(build);
    let output = run.env("XDG_CACHE_HOME", dir.path().join("cache")).deadline(Duration::from_secs(30)).output();
    println!("{}", output.stderr);
    refused(output, 2, &["user namespaces", "sysctl", "max_user_namespaces", "sandbox: off"]);
    df(repo.dir(), &state).arg("build").output().expect_code(0);
}

#[test]
fn a_commit_that_does_not_exist() {
    let (versions, world) = (versions(), World::new(0));
    assert_eq!(versions.v1.len(), 40);
    refused(world.df(["build", "--commit-hash", "feedfacefeedfacefeedfacefeedfacefeedface"]).output(), 2, &["feedface"]);
    refused(world.df(["build", "--commit-hash=--upload-pack=x"]).output(), 2, &["upload-pack"]);
}

#[test]
fn a_repository_with_no_commits() {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = repository(dir.path(), &[]);
    std::fs::write(repo.dir().join("df.yaml"), "app: greeter\nbuild: { command: make, output: out, sandbox: off }\n")
        .expect("written");
    refused(df(repo.dir(), &dir.path().join("state")).arg("build").output(), 2, &["no commit"]);
}

#[test]
fn a_build_that_fails() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    refused(world.df(["deploy", "--commit-hash", &versions.broken]).output(), 1, &["error", "does not compile", ".log"]);
    world.expect_serving(&versions.v1);
}

#[test]
fn an_output_that_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = repository(dir.path(), &[("df.yaml", "app: files\nbuild: { command: \"true\", output: dist, sandbox: off }\n")]);
    refused(df(repo.dir(), &dir.path().join("state")).arg("build").output(), 1, &["dist"]);
}

#[test]
fn an_unreachable_node_while_the_others_go_on() {
    let (versions, world) = (versions(), World::new(2));
    let port = net::free_port(std::net::Ipv4Addr::LOCALHOST);
    world.df(["add", &format!("ssh://127.0.0.1:{port}/tmp/df-nobody"), "--name", "gone"]).ok();
    refused(world.df(["deploy", "--commit-hash", &versions.v1]).output(), 9, &["gone", "unreachable"]);
    world.expect_serving(&versions.v1);
}

#[test]
fn a_node_whose_disk_is_full() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting a small file system takes root");
        return;
    }
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let small = world.path("small");
    std::fs::create_dir(&small).expect("made");
    let program = std::fs::metadata(env!("CARGO_BIN_EXE_df-node")).expect("it is there").len();
    let tmpfs = Tmpfs::mount(&small, program + (256 << 10)).expect("mounted");
    let address = format!("local:{}", tmpfs.dir().display());
    world.df(["add", &address, "--name", "full", "--listen", &net::own_loopback().to_string()]).ok();
    refused(world.df(["cp", "--version", &versions.v2, "--address", "full"]).output(), 1, &["full", "room"]);
    world.df(["rm", "full"]).ok();
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
}

#[test]
fn a_second_df_at_work_on_the_same_node() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let config = world.path("soaking.yaml");
    std::fs::write(&config, "app: greeter\nbuild: { cargo: { package: distributive-flow, examples: [greeter] }, sandbox: off }\nrollout: { soak: 20s }\n").expect("written");
    let config = config.display().to_string();
    let mut first = world.df(["--config", &config, "deploy", "--commit-hash", &versions.v2]).spawn();
    df_testkit::process::wait_until(Duration::from_secs(60), || world.get(1, "/").1.contains(&versions.v2).then_some(()))
        .expect("the first is in its soak");
    refused(world.df(["deploy", "--commit-hash", &versions.v1]).output(), 4, &["n1", "deploy"]);
    first.kill();
    // A killed df leaves no lock: its session ends with it, once the node has noticed.
    let deployed = df_testkit::process::wait_until(Duration::from_secs(60), || {
        (world.df(["deploy", "--commit-hash", &versions.v1]).output().code == Some(0)).then_some(())
    });
    deployed.expect("the next deploy succeeds");
    world.expect_serving(&versions.v1);
}

#[test]
fn a_name_used_twice() {
    let world = World::new(1);
    refused(world.df(["add", "root@elsewhere", "--name", "n1"]).output(), 2, &["n1", "used"]);
    refused(world.df(["add", "--", "-oProxyCommand=x"]).output(), 2, &["ProxyCommand"]);
}

#[test]
fn a_damaged_image_on_a_node() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let image = std::fs::canonicalize(world.node(1).join("apps/greeter/current")).expect("it is current");
    damage(&image.join("bin/greeter"));
    let said = world.df(["--json", "compare-checksums"]).output().expect_code(8);
    assert_eq!(said.events("difference")[0]["path"], "bin/greeter", "{}", said.stdout);
    world.df(["cp", "--full", "--version", &versions.v1]).ok();
    world.df(["compare-checksums"]).ok();
    // The next version arrives whole where the base is damaged.
    damage(&image.join("bin/greeter"));
    world.deploy(&versions.v2);
    world.expect_serving(&versions.v2);
}

/// Puts another file in place of one that runs, which the kernel lets nobody write to; it differs in one byte.
fn damage(program: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = program.parent().expect("it lies in a directory");
    let (mode, copy) = (std::fs::metadata(dir).expect("it is there").permissions(), dir.join(".damaged"));
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("ours");
    std::fs::copy(program, &copy).expect("copied");
    faults::flip_byte(&copy, 100_000);
    std::fs::rename(&copy, program).expect("replaced");
    std::fs::set_permissions(dir, mode).expect("ours");
}

#[test]
fn a_port_held_by_another_program() {
    let (versions, world) = (versions(), World::new(1));
    let _held = std::net::TcpListener::bind(world.at(1)).expect("free");
    refused(
        world.df(["deploy", "--commit-hash", &versions.v1]).output(),
        1,
        &["8080", "held by", &format!("pid {}", std::process::id())],
    );
}

#[test]
fn a_port_held_by_another_application_of_df() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let before = world.get(1, "/").1;
    let config = world.path("another.yaml");
    let text = "app: another\nbuild: { cargo: { package: distributive-flow, examples: [greeter] } }\nrollout: { soak: 0s }\n";
    std::fs::write(&config, text).expect("written");
    let config = config.display().to_string();
    let another = || world.df(["--config", &config, "deploy", "--commit-hash", &versions.v1]);
    refused(another().output(), 1, &["8080", "is held by the application greeter"]);
    assert_eq!(world.get(1, "/").1, before, "who holds it serves on");
    world.df(["stop"]).ok();
    another().ok();
    world.expect_serving(&versions.v1);
}

#[test]
fn zero_nodes() {
    let (versions, world) = (versions(), World::new(0));
    refused(world.df(["deploy", "--commit-hash", &versions.v1]).output(), 2, &["df add"]);
}
