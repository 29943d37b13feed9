//! `df hook install`: what is committed or pushed is built, and deployed when that was asked for; nobody else's hook is ever touched.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::process::{Child, Output, Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::survivors;

const DEADLINE: Duration = Duration::from_secs(120);

/// A repository with a page, a bare one that it is pushed to, and a node.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::Builder::new().prefix("df-hook").tempdir().expect("a directory") };
        Repo::new(&desk.path("work")).commit(&[("df.yaml", &desk.yaml()), ("pages/index.html", "one")], "one");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn yaml(&self) -> String {
        let node = self.path("node");
        format!("app: page\nbuild:\n  command: cp -r pages dist\n  output: dist\nnodes: [\"local:{}\"]\n", node.display())
    }

    /// Makes the bare repository; its df.yaml is its own.
    fn bare(&self) -> PathBuf {
        let bare = self.path("page.git");
        self.git("work", ["clone", "--quiet", "--bare", ".", &bare.display().to_string()]).ok();
        fs::write(bare.join("df.yaml"), self.yaml()).expect("df.yaml");
        self.git("work", ["remote", "add", "server", &bare.display().to_string()]).ok();
        bare
    }

    /// Returns git in one of the directories, with nothing of the person who runs the test.
    fn git<const N: usize>(&self, dir: &str, words: [&str; N]) -> Run {
        let run = Run::new("git").args(["-c", "user.name=df", "-c", "user.email=df@localhost"]).args(words).dir(self.path(dir));
        self.alone(run)
    }

    fn df<const N: usize>(&self, dir: &str, words: [&str; N]) -> Run {
        self.alone(Run::new(env!("CARGO_BIN_EXE_df")).arg("-C").arg(self.path(dir)).args(words))
    }

    fn alone(&self, run: Run) -> Run {
        run.env("XDG_CACHE_HOME", self.path("cache"))
            .env("HOME", self.dir.path())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("NO_COLOR", "1")
            .env("DF_NO_BACKGROUND", "1")
            .deadline(DEADLINE)
    }

    /// Commits another page and returns the commit with what git said.
    fn commit(&self, page: &str) -> (String, Output) {
        fs::write(self.path("work/pages/index.html"), page).expect("a page");
        let said = self.git("work", ["commit", "--quiet", "--all", "--message", page]).ok();
        let head = self.git("work", ["rev-parse", "HEAD"]).ok().stdout.trim().to_owned();
        (head, said)
    }

    /// Returns the commits that the cache has images of.
    fn built(&self) -> Vec<String> {
        let said = self.df("work", ["--json", "list", "versions"]).output();
        let releases = said.events("release").into_iter();
        releases.filter_map(|release| release["commit"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        survivors::kill_under(self.dir.path());
    }
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o111 != 0)
}

#[test]
fn a_push_is_built_and_deployed_and_whoever_pushed_reads_how() {
    let desk = Desk::new();
    let bare = desk.bare();
    desk.df("page.git", ["hook", "install", "--deploy"]).ok();
    assert!(is_executable(&bare.join("hooks/post-receive")));
    let (commit, _) = desk.commit("two");
    let branch = desk.git("work", ["branch", "--show-current"]).ok().stdout.trim().to_owned();
    let said = desk.git("work", ["push", "--quiet", "server", &branch]).ok();
    assert!(said.stderr.contains("remote: "), "{said}");
    let node = desk.df("page.git", ["--json", "status"]).ok();
    assert_eq!(node.events("node")[0]["commit"].as_str(), Some(commit.as_str()), "{node}");
    // Another branch is not what serves.
    desk.git("work", ["switch", "--quiet", "--create", "other"]).ok();
    let (other, _) = desk.commit("three");
    let said = desk.git("work", ["push", "--quiet", "server", "other"]).ok();
    assert!(said.stderr.contains("nothing was pushed to"), "{said}");
    assert!(!desk.built().contains(&other));
}

/// Expects that a push waits for another hook's end.
fn expect_waiting(push: &Child) {
    let waits = || push.stderr().contains("another hook is at work").then_some(());
    assert!(wait_until(DEADLINE, waits).is_some(), "it does not wait: {}", push.stderr());
}

#[test]
fn of_two_pushes_at_once_the_second_serves() {
    let desk = Desk::new();
    let bare = desk.bare();
    desk.git("work", ["branch", "--move", "main"]).ok();
    desk.df("page.git", ["hook", "install", "--deploy", "--branch", "main"]).ok();
    // A third that is at work, so that both come while somebody is.
    fs::create_dir_all(bare.join(".df")).expect("a directory");
    let lock = fs::File::create(bare.join(".df/hook.lock")).expect("a file");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("nobody has it");
    let pushes = ["two", "three"].map(|page| {
        desk.commit(page);
        let push = desk.git("work", ["push", "server", "main"]).spawn();
        expect_waiting(&push);
        push
    });
    drop(lock);
    let [first, second] = pushes.map(|push| push.finish(DEADLINE));
    for said in [&first, &second] {
        assert!(said.code == Some(0) && !said.stderr.contains("ended with"), "{said}");
    }
    assert!(first.stderr.contains("main is another commit by now"), "{first}");
    let newest = desk.git("work", ["rev-parse", "HEAD"]).ok().stdout.trim().to_owned();
    let node = desk.df("page.git", ["--json", "status"]).ok();
    assert_eq!(node.events("node")[0]["commit"].as_str(), Some(newest.as_str()), "{node}");
    assert_eq!(node.events("node")[0]["generation"].as_u64(), Some(1), "what was overtaken never served: {node}");
}

#[test]
fn a_push_goes_to_the_cache_that_df_yaml_names_before_it_is_deployed() {
    let desk = Desk::new();
    let bare = desk.bare();
    desk.git("work", ["branch", "--move", "main"]).ok();
    let remote = |path: &Path| {
        let yaml = desk.yaml() + &format!("cache: {{ remote: \"file:{}\" }}\n", path.display());
        fs::write(bare.join("df.yaml"), yaml).expect("df.yaml");
    };
    remote(&desk.path("elsewhere"));
    let said = desk.df("page.git", ["hook", "install", "--deploy", "--branch", "main"]).ok();
    assert!(said.stdout.contains("is built, persisted and deployed"), "{said}");
    let (commit, _) = desk.commit("two");
    desk.git("work", ["push", "--quiet", "server", "main"]).ok();
    let place = format!("file:{}", desk.path("elsewhere").display());
    let there = desk.df("work", ["--json", "ls", "versions", "--address", &place]).ok();
    assert_eq!(there.events("release")[0]["commit"].as_str(), Some(commit.as_str()), "{there}");
    // What cannot be kept is not deployed.
    fs::write(desk.path("a-file"), "no directory").expect("written");
    remote(&desk.path("a-file/cache"));
    desk.commit("three");
    let said = desk.git("work", ["push", "--quiet", "server", "main"]).ok();
    assert!(said.stderr.contains("df cache persist ended with"), "{said}");
    let node = desk.df("page.git", ["--json", "status"]).ok();
    assert_eq!(node.events("node")[0]["commit"].as_str(), Some(commit.as_str()), "what served serves: {node}");
}

#[test]
fn a_push_that_does_not_build_says_why_and_leaves_what_serves() {
    let desk = Desk::new();
    desk.bare();
    desk.df("page.git", ["hook", "install", "--deploy", "--branch", "main"]).ok();
    desk.git("work", ["branch", "--move", "main"]).ok();
    let (good, _) = desk.commit("two");
    desk.git("work", ["push", "--quiet", "server", "main"]).ok();
    fs::write(desk.path("work/df.yaml"), desk.yaml().replace("cp -r", "false")).expect("df.yaml");
    desk.commit("three");
    let said = desk.git("work", ["push", "--quiet", "server", "main"]).ok();
    assert!(said.stderr.contains("df build ended with"), "{said}");
    let node = desk.df("page.git", ["--json", "status"]).ok();
    assert_eq!(node.events("node")[0]["commit"].as_str(), Some(good.as_str()), "{node}");
}

#[test]
fn a_commit_is_built_and_not_deployed() {
    let desk = Desk::new();
    let said = desk.df("work", ["hook", "install"]).ok();
    assert!(said.stdout.contains("each commit is built"), "{said}");
    let (commit, _) = desk.commit("two");
    // Before anything asks the node.
    assert!(!desk.path("node").exists(), "nobody asked for a deploy");
    assert_eq!(desk.built(), [commit]);
}

#[test]
fn a_commit_does_not_wait_for_its_build() {
    let desk = Desk::new();
    desk.df("work", ["hook", "install"]).ok();
    // git waits for whoever holds its output; a build of a second would be seen.
    let yaml = desk.yaml().replace("cp -r", "sleep 1; cp -r");
    fs::write(desk.path("work/df.yaml"), yaml).expect("df.yaml");
    fs::write(desk.path("work/pages/index.html"), "two").expect("a page");
    let said = desk.git("work", ["commit", "--quiet", "--all", "--message", "two"]).env_remove("DF_NO_BACKGROUND").ok();
    assert!(said.stderr.contains("building in the background"), "{said}");
    assert!(!said.left_open, "the build holds the terminal");
    let built = wait_until(DEADLINE, || Some(desk.built()).filter(|built| built.len() == 1));
    let log = fs::read_to_string(desk.path("work/.df/hook.log")).unwrap_or_default();
    assert!(built.is_some(), "{log}");
    let status = desk.git("work", ["status", "--porcelain"]).ok();
    assert_eq!(status.stdout, "", "the log and the state are kept out of git");
}

#[test]
fn the_hook_of_somebody_else_stays_as_it_is() {
    let desk = Desk::new();
    let hook = desk.path("work/.git/hooks/post-commit");
    fs::create_dir_all(hook.parent().expect("a directory")).expect("a directory");
    fs::write(&hook, "#!/bin/sh\nexit 0\n").expect("a hook");
    for run in [desk.df("work", ["hook", "install"]), desk.df("work", ["--dry-run", "hook", "install"])] {
        let said = run.output();
        assert_eq!(said.code, Some(2), "{said}");
        assert!(said.stderr.contains("was not written by df; nothing was changed"), "{said}");
    }
    assert_eq!(fs::read(&hook).expect("the hook"), b"#!/bin/sh\nexit 0\n");
    // Ours is written anew.
    fs::remove_file(&hook).expect("the hook");
    desk.df("work", ["hook", "install"]).ok();
    desk.df("work", ["hook", "install", "--branch", "main"]).ok();
    assert!(fs::read_to_string(&hook).expect("the hook").contains("--branch 'main'"));
}

#[test]
fn hooks_go_where_git_looks_for_them_and_never_where_others_look_too() {
    let desk = Desk::new();
    desk.git("work", ["config", "core.hooksPath", ".githooks"]).ok();
    desk.df("work", ["hook", "install"]).ok();
    assert!(is_executable(&desk.path("work/.githooks/post-commit")));
    let elsewhere = desk.path("everybody").display().to_string();
    desk.git("work", ["config", "core.hooksPath", &elsewhere]).ok();
    let said = desk.df("work", ["hook", "install"]).output();
    assert_eq!(said.code, Some(2), "{said}");
    assert!(said.stderr.contains("core.hooksPath"), "{said}");
    assert!(!desk.path("everybody").exists());
}

#[test]
fn a_bare_repository_without_a_df_yaml_is_told_how_to_get_one() {
    let desk = Desk::new();
    let bare = desk.bare();
    fs::remove_file(bare.join("df.yaml")).expect("df.yaml");
    let said = desk.df("page.git", ["hook", "install"]).output();
    assert_eq!(said.code, Some(2), "{said}");
    assert!(said.stderr.contains("show HEAD:df.yaml"), "{said}");
    assert!(!bare.join("hooks/post-receive").exists());
}
