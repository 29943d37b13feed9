//! df for a user who is not root: nothing here needs more rights than a directory of one's own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use df_testkit::faults;
use df_testkit::process::Run;
use df_testkit::repo::Repo;

/// nobody, whom every system has.
const NOBODY: u32 = 65534;

/// Returns `df` as an ordinary user: as nobody when the tests run as root.
fn df(dir: &Path) -> Run {
    let df = dir.join("bin/df");
    let run = if rustix::process::geteuid().is_root() {
        let id = NOBODY.to_string();
        Run::new("/usr/bin/setpriv").args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", &df.display().to_string()])
    } else {
        Run::new(df)
    };
    run.dir(dir.join("repo"))
        .env("HOME", dir)
        .env("XDG_CACHE_HOME", dir.join("cache"))
        .env("NO_COLOR", "1")
        .deadline(crate::support::DEADLINE)
}

/// Puts the programs where the ordinary user reaches them: the place of the build may be closed to others.
fn install(dir: &Path) {
    std::fs::create_dir(dir.join("bin")).expect("made");
    for program in [env!("CARGO_BIN_EXE_df"), env!("CARGO_BIN_EXE_df-node")] {
        let name = Path::new(program).file_name().expect("a program has a name");
        std::fs::copy(program, dir.join("bin").join(name)).expect("copied");
    }
}

/// Gives a tree to the ordinary user.
fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        Run::new("/bin/chown").args(["-R", &format!("{NOBODY}:{NOBODY}"), &path.display().to_string()]).ok();
    }
}

#[test]
fn an_ordinary_user_deploys_mends_and_collects() {
    let dir = tempfile::Builder::new().prefix("df-user").tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let repo = Repo::new(&dir.path().join("repo"));
    let yaml = "app: pages\nbuild: { include: { www: www }, sandbox: off }\n";
    std::fs::write(repo.dir().join("df.yaml"), yaml).expect("written");
    let commits: Vec<String> = ["one", "two", "three"]
        .iter()
        .map(|text| repo.commit(&[("df.yaml", yaml), ("www/index.html", text), ("www/same.html", "the same")], text))
        .collect();
    install(dir.path());
    give(dir.path());
    let node = dir.path().join("node");
    df(dir.path()).args(["add", &format!("local:{}", node.display())]).ok();
    for commit in &commits {
        df(dir.path()).args(["deploy", "--commit-hash", commit]).ok();
    }
    let page = node.join("apps/pages/current/www/index.html");
    assert_eq!(std::fs::read_to_string(&page).expect("served"), "three");
    // Ages are whole seconds: what was made in this one is not older than it.
    let collected = df_testkit::process::wait_until(crate::support::DEADLINE, || {
        df(dir.path()).args(["gc", "--count", "1", "--older", "0s"]).ok();
        (std::fs::read_dir(node.join("store")).expect("listed").count() == 2).then_some(())
    });
    collected.expect("what serves and what a rollback needs stays, and nothing else");

    let damaged = std::fs::canonicalize(&page).expect("it is there");
    std::fs::set_permissions(&damaged, std::fs::Permissions::from_mode(0o644)).expect("ours");
    faults::flip_byte(&damaged, 0);
    df(dir.path()).arg("compare-checksums").output().expect_code(8);
    df(dir.path()).args(["cp", "--full"]).ok();
    df(dir.path()).arg("compare-checksums").ok();
    df(dir.path()).arg("rollback").ok();
    assert_eq!(std::fs::read_to_string(&page).expect("served"), "two");
    // A read-only tree is not removed by itself where the tests are not root.
    df(dir.path()).args(["cache", "flush", "--yes"]).ok();
    df_testkit::survivors::kill_under(dir.path());
    Run::new("/bin/chmod").args(["-R", "u+w", &dir.path().display().to_string()]).ok();
}
