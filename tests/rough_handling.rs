//! Names that steer terminals, two df at once, a df that is killed, a node whose records somebody broke: what is shown is text, nothing is lost or mixed,
//! and the error says what to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::repo::Repo;

use crate::hostile_node::harmless;
use crate::support::{World, df};

const CONFIG: &str = "app: files\nbuild: { command: \"sh build.sh\", output: out }\n";
/// Makes files whose names and contents steer terminals, and says so on both streams.
const BUILD: &str = "mkdir -p \"out/$(printf 'd\\033[31m')\"
printf one > \"out/$(printf 'd\\033[31m')/$(printf 'a\\033]0;owned\\007\\nb\\302\\2332J\\342\\200\\256txt\\377')\"
cp VERSION out/version
ln -s version \"out/$(printf 'link\\r\\033[2J')\"
printf '\\033[2Jbuilding\\r\\n'; printf '\\033]0;owned\\007' >&2
";

/// A repository of files with odd names, and nodes for it.
struct Odd {
    world: World,
    _source: tempfile::TempDir,
    repo: Repo,
    v1: String,
}

impl Odd {
    fn new(n_nodes: usize) -> Self {
        let source = tempfile::Builder::new().prefix("df-odd").tempdir().expect("a directory");
        let repo = Repo::new(&source.path().join("repo"));
        let v1 = repo.commit(&[("df.yaml", CONFIG), ("build.sh", BUILD), ("VERSION", "1\n")], "v1 \u{1b}[2J\u{202e}");
        let world = World::of(repo.dir(), n_nodes);
        Self { world, _source: source, repo, v1 }
    }

    fn current(&self, n: usize) -> PathBuf {
        self.world.node(n).join("apps/files/current")
    }

    fn version(&self, n: usize) -> String {
        fs::read_to_string(self.current(n).join("version")).unwrap_or_default()
    }
}

/// Runs df for people and for scripts, and expects one of these codes and harmless output both times.
#[track_caller]
fn both<const N: usize>(world: &World, words: [&str; N], codes: &[i32]) -> [df_testkit::process::Output; 2] {
    [world.df(words), world.df(words).arg("--json")].map(|run| {
        let output = run.output();
        assert!(output.code.is_some_and(|code| codes.contains(&code)), "expected one of {codes:?}: {output}");
        harmless(&output);
        output
    })
}

#[test]
fn names_in_an_image_are_shown_as_text_by_every_command() {
    let odd = Odd::new(1);
    let world = &odd.world;
    both(world, ["build"], &[0]);
    both(world, ["cp"], &[0]);
    both(world, ["deploy"], &[0]);
    both(world, ["compare-checksums"], &[0]);
    both(world, ["ls", "versions"], &[0]);
    let [status, _] = both(world, ["status"], &[0]);
    assert!(status.stdout.contains("files"), "nothing of it runs, and that is well: {status}");
    damage(&fs::canonicalize(odd.current(1)).expect("it is current"));
    let [_, said] = both(world, ["compare-checksums"], &[8]);
    let paths: Vec<String> =
        said.events("difference").iter().map(|d| d["path"].as_str().unwrap_or_default().to_owned()).collect();
    assert!(
        paths.iter().any(|path| path.contains("\u{1b}]0;owned\u{7}\nb\u{9b}2J\u{202e}txt")),
        "scripts get the name itself: {said}"
    );
    odd.repo.commit(&[("VERSION", "2\n"), ("build.sh", &BUILD.replace("printf one", "printf two"))], "v2 \u{1b}]0;x\u{7}");
    both(world, ["cache", "diff"], &[0, 8]);
    both(world, ["deploy"], &[0]);
    both(world, ["cache", "diff"], &[0, 8]);
    both(world, ["compare-checksums"], &[0, 8]);
    both(world, ["cache", "verify"], &[0]);
    both(world, ["cache", "gc"], &[0]);
    both(world, ["gc"], &[0]);
    both(world, ["history"], &[0]);
    both(world, ["doctor"], &[0, 1]);
    odd.repo.commit(&[("build.sh", "printf '\\033[2Jbroken\\302\\2331m\\r\\n' >&2; exit 1\n")], "broken \u{7}");
    both(world, ["build"], &[1]);
}

/// Changes the file whose name steers terminals.
fn damage(image: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    for dir in fs::read_dir(image)
        .expect("listed")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir() && !path.is_symlink())
    {
        for file in fs::read_dir(&dir).expect("listed").map(|entry| entry.expect("an entry").path()) {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
            fs::write(&file, "damaged").expect("written");
        }
    }
}

#[test]
fn two_deploys_at_once_leave_no_nodes_on_different_versions() {
    let odd = Odd::new(3);
    let v2 = odd.repo.commit(&[("VERSION", "2\n")], "v2");
    for commit in [&odd.v1, &v2] {
        odd.world.df(["build", "--commit-hash", commit]).ok();
    }
    for round in 0..4 {
        let deploys = [&odd.v1, &v2].map(|commit| odd.world.df(["deploy", "--commit-hash", commit]).spawn());
        let ended = deploys.map(|deploy| deploy.finish(Duration::from_secs(60)));
        for output in &ended {
            // Who lost was told so, and changed nothing.
            assert!(matches!(output.code, Some(0 | 1 | 4 | 5)), "round {round}: {output}");
        }
        let versions: Vec<String> = (1..=3).map(|n| odd.version(n)).collect();
        assert!(
            versions.iter().all(|version| *version == versions[0]),
            "round {round}: {versions:?}\n{}\n{}",
            ended[0],
            ended[1]
        );
    }
    odd.world.deploy(&v2);
}

#[test]
fn eight_builds_of_one_commit_at_once_compile_it_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = Repo::new(&dir.path().join("repo"));
    for round in 0..3 {
        // Short, so that some look for the image just when another has let go of the lock.
        let build = format!("mkdir out; echo {round} > out/x");
        let yaml = format!("app: quick\nbuild: {{ command: \"{build}\", output: out }}\n");
        repo.commit(&[("df.yaml", yaml.as_str())], "one more");
        let run = || {
            df(repo.dir(), &dir.path().join("state")).env("XDG_CACHE_HOME", dir.path().join("cache")).args(["build", "--json"])
        };
        let started: Vec<_> = (0..8).map(|_| run().spawn()).collect();
        let ended: Vec<_> = started.into_iter().map(|build| build.finish(Duration::from_secs(60))).collect();
        let n_compiled = ended.iter().filter(|output| output.events("built")[0]["reused"] == false).count();
        assert_eq!(n_compiled, 1, "round {round}: {}", ended.iter().map(ToString::to_string).collect::<String>());
    }
}

#[test]
fn twenty_nodes_added_at_once_are_all_on_the_list() {
    let odd = Odd::new(0);
    let names: Vec<String> = (0..20).map(|n| format!("n{n}")).collect();
    let adding: Vec<_> = names
        .iter()
        .map(|name| {
            let address = format!("local:{}", odd.world.path(name).display());
            odd.world.df(["add", &address, "--name", name]).spawn()
        })
        .collect();
    for add in adding {
        add.finish(Duration::from_secs(60)).expect_code(0);
    }
    let listed = odd.world.df(["--json", "ls", "nodes"]).ok().events("node");
    let mut addresses: Vec<String> = listed.iter().map(|node| node["listen"].to_string()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!((listed.len(), addresses.len()), (20, 20), "each has an address of its own");
}

#[test]
fn a_df_that_is_killed_while_it_puts_leaves_a_cache_that_is_whole() {
    let odd = Odd::new(0);
    odd.world.df(["build"]).ok();
    let elsewhere = format!("file:{}", odd.world.path("elsewhere").display());
    let whole = odd.world.df(["cache", "put", "--address", &elsewhere]).ok().elapsed;
    for n in 1..=12_u32 {
        let _ = fs::remove_dir_all(odd.world.path("elsewhere"));
        let mut put = odd.world.df(["cache", "put", "--address", &elsewhere]).spawn();
        let _ = df_testkit::process::wait_until(whole * n / 12, || None::<()>);
        put.kill();
        let verified = odd.world.df(["cache", "verify", "--address", &elsewhere]).output();
        // It may have been killed before it began one.
        let none_yet = verified.code == Some(2) && verified.stderr.contains("there is no cache at");
        assert!(verified.code == Some(0) || none_yet, "{verified}");
        odd.world.df(["cache", "put", "--address", &elsewhere]).ok();
        let version = odd.v1[..12].to_owned();
        let tree = odd.world.path(&format!("tree{n}"));
        odd.world.df(["cache", "get", &version, "--address", &elsewhere, "--output", &tree.display().to_string()]).ok();
        assert_eq!(fs::read_to_string(tree.join("version")).expect("it is there"), "1\n");
    }
}

#[test]
fn records_that_somebody_broke_are_named_and_nothing_is_guessed() {
    let odd = Odd::new(2);
    odd.world.deploy(&odd.v1);
    let v2 = odd.repo.commit(&[("VERSION", "2\n")], "v2");
    let (current, record) = (odd.current(1), odd.world.node(1).join("apps/files/generations/1/record.json"));
    let refused = |said: &str| {
        let output = odd.world.df(["status"]).output();
        assert!(matches!(output.code, Some(1 | 5)), "{output}");
        assert!(output.stderr.contains(said) && output.stderr.contains("n1") && output.stderr.contains("away"), "{output}");
        odd.world.df(["deploy", "--commit-hash", &v2]).output().expect_code(1);
        assert_eq!(odd.version(2), "1\n", "the other went on alone");
    };
    let bytes = fs::read(&record).expect("read");
    for broken in [&bytes[..bytes.len() / 2], b"", b"{}", b"\x1b[2J"] {
        fs::write(&record, broken).expect("written");
        refused("record.json");
    }
    fs::write(&record, &bytes).expect("mended");
    let target = fs::read_link(&current).expect("a link");
    fs::remove_file(&current).expect("removed");
    fs::create_dir(&current).expect("made");
    refused("files/current");
    fs::remove_dir(&current).expect("removed");
    for elsewhere in ["/etc", "../../../../..", "generations/../../../..", "generations/7/image", "generations/1\u{1b}/image"] {
        std::os::unix::fs::symlink(elsewhere, &current).expect("planted");
        let output = odd.world.df(["status"]).output();
        harmless(&output);
        assert!(output.code != Some(0), "{elsewhere}: {output}");
        fs::remove_file(&current).expect("removed");
    }
    std::os::unix::fs::symlink(&target, &current).expect("mended");
    odd.world.deploy(&v2);
    assert_eq!((odd.version(1), odd.version(2)), ("2\n".to_owned(), "2\n".to_owned()));
    // What the error says helps, also when it is the record of what is current.
    let generation = fs::read_link(&current).expect("a link").parent().expect("generations/N").to_owned();
    fs::write(current.with_file_name("").join(&generation).join("record.json"), "{}").expect("broken");
    fs::rename(current.with_file_name("").join(&generation), odd.world.path("away")).expect("moved away");
    odd.world.deploy(&odd.v1);
    assert_eq!((odd.version(1), odd.version(2)), ("1\n".to_owned(), "1\n".to_owned()));
}
