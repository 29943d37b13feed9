//! The attempts run: by cargo as it is, and by a strict build in a process of its own, as a person at a terminal would start both.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use df_build::{BuildError, Builder, Repository};
use df_core::AppName;
use df_core::name::PathText;
use df_core::spec::{BuildSection, BuildTool, CargoBuild, Relocatable, Sandbox};

use crate::stage::{N_PROCESSES, Stage, sysroot};

const DEADLINE: Duration = Duration::from_secs(120);

/// The package whose build script makes the attempts.
const MANIFEST: &str =
    "[package]\nname = \"attempts\"\nversion = \"0.1.0\"\nedition = \"2024\"\nbuild = \"attempts/main.rs\"\n[workspace]\n";
const LOCK: &str = "version = 4\n\n[[package]]\nname = \"attempts\"\nversion = \"0.1.0\"\n";
const MAIN: &str = "fn main() { print!(\"{}\", include_str!(concat!(env!(\"OUT_DIR\"), \"/outcomes\"))); }\n";

/// A build in the sandbox, in a process of its own.
pub struct Sandboxed {
    /// The user that df runs as, when not this one.
    pub user: Option<u32>,
    /// The command of a `command` build, whose output is `out`; without one a cargo build.
    pub command: Option<String>,
    pub sandbox: Sandbox,
    /// What root does first, in a mount namespace that is thrown away.
    pub prepare: &'static str,
    /// How many processes the user may have.
    pub n_processes: Option<u64>,
}

/// What such a build gave.
pub struct Outcome {
    /// A copy of its output; not there when it failed.
    pub output: PathBuf,
    /// The error and all events, as they would be shown.
    pub said: String,
}

impl Sandboxed {
    pub fn cargo() -> Self {
        Self { user: None, command: None, sandbox: Sandbox::Strict, prepare: "", n_processes: None }
    }

    pub fn command(line: &str) -> Self {
        Self { command: Some(line.into()), ..Self::cargo() }
    }

    /// Builds the repository of a stage.
    #[track_caller]
    pub fn build(&self, stage: &Stage) -> Outcome {
        let output = stage.path("output");
        fs::remove_dir_all(&output).ok();
        fs::remove_file(stage.path("said")).ok();
        run(self.df(stage), &stage.path("run.log"));
        let said = fs::read_to_string(stage.path("said")).expect("the other process says what came of it");
        Outcome { output, said }
    }

    /// Begins to build, and kills df, and nothing but df, as soon as something is so.
    #[track_caller]
    pub fn kill_when(&self, stage: &Stage, is_so: impl Fn() -> bool) {
        let mut child = self.df(stage).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let so = df_testkit::wait_until(DEADLINE, || is_so().then_some(()));
        child.kill().expect("it runs");
        child.wait().expect("a child");
        assert!(so.is_some(), "it never began");
    }

    /// Returns what builds in a process of its own: this program again, by another test.
    fn df(&self, stage: &Stage) -> Command {
        let toolchain = stage.path("toolchain");
        let tests = stage.path("tests");
        fs::copy(std::env::current_exe().expect("this program"), &tests).expect("copied");
        fs::set_permissions(&tests, fs::Permissions::from_mode(0o755)).expect("ours");
        // The compiler may lie where only root gets to.
        let bind = if self.user.is_some() { "mount --bind \"$SYSROOT\" \"$TOOLCHAIN\"" } else { "" };
        let script = format!("set -eu\n{bind}\n{}\nexec \"$@\"", self.prepare);
        let mut command = if rustix::process::geteuid().is_root() { Command::new("unshare") } else { Command::new(&tests) };
        if rustix::process::geteuid().is_root() {
            command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", &script, "sh"]);
            if let Some(user) = self.user.map(|user| user.to_string()) {
                command.args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "--"]);
            }
            command.arg(&tests);
        }
        command.args(["--exact", "run::the_build_that_another_test_asks_for", "--nocapture"]);
        let mut command = stage.careless(command, self.n_processes);
        let bin = if self.user.is_some() { toolchain.join("bin") } else { sysroot().join("bin") };
        command
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", bin.display()))
            .env("SYSROOT", sysroot())
            .env("TOOLCHAIN", &toolchain)
            .env("ESCAPES_STAGE", stage.path(""))
            .env("ESCAPES_SANDBOX", if self.sandbox == Sandbox::Strict { "strict" } else { "off" })
            .envs(self.command.as_ref().map(|command| ("ESCAPES_COMMAND", command)));
        command
    }
}

/// Makes the attempts in a strict build and returns what each says of itself.
#[track_caller]
pub fn shut_in(stage: &mut Stage, sandboxed: &Sandboxed) -> BTreeMap<String, String> {
    write_package(stage);
    stage.repo.commit_tree(&stage.path("package"), "attempts");
    stage.settle();
    let outcome = sandboxed.build(stage);
    assert!(outcome.output.is_dir(), "the build failed: {}", outcome.said);
    said_by(stage, &outcome.output.join("bin/attempts"))
}

/// Makes the attempts outside of any sandbox, in a mount and a UTS namespace of their own with copies of what would be written to.
#[track_caller]
pub fn outside(stage: &Stage) -> BTreeMap<String, String> {
    write_package(stage);
    let script = "
        set -eu
        cp -a /etc/. \"$STAGE/etc\"
        mount --bind \"$STAGE/etc\" /etc
        mount --bind \"$STAGE/local\" /usr/local/bin
        mount --bind \"$STAGE/toolchain_etc\" \"$SYSROOT/etc\"
        mount --bind \"$STAGE/read_only\" \"$STAGE/read_only\"
        mount -o remount,bind,ro \"$STAGE/read_only\"
        cd \"$STAGE/package\"
        exec cargo build --release --offline --locked";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--uts", "--propagation", "private", "/bin/sh", "-c", script]);
    let mut command = stage.careless(command, Some(N_PROCESSES));
    command
        .env("PATH", format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", sysroot().join("bin").display()))
        .env("SYSROOT", sysroot())
        .env("STAGE", stage.path(""));
    run(command, &stage.path("run.log"));
    said_by(stage, &stage.path("package/target/release/attempts"))
}

/// Builds the package of a stage with what cargo kept, as everybody does.
#[track_caller]
pub fn outside_of_all(stage: &Stage) {
    cargo(stage, Command::new("cargo"), &[]);
}

/// Builds the package of a stage outside and returns all that came out of cargo.
#[track_caller]
pub fn messages_outside(stage: &Stage) -> String {
    fs::remove_dir_all(stage.path("package/target")).ok();
    cargo(stage, Command::new("cargo"), &["--message-format=json"]);
    fs::read_to_string(stage.path("run.log")).expect("what it said")
}

/// Builds the package of a stage where /tmp is another directory than outside.
#[track_caller]
pub fn in_private_tmp(stage: &Stage) {
    let mut command = Command::new("unshare");
    // The package stays where it is, also when that is below /tmp.
    let script = "mount --bind . /mnt && mount -t tmpfs df /tmp && mkdir -p \"$PWD\" && mount --bind /mnt \"$PWD\" && cd \"$PWD\" && exec cargo \"$@\"";
    command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"]);
    cargo(stage, command, &[]);
}

fn cargo(stage: &Stage, mut command: Command, more: &[&str]) {
    command.args(["build", "--release", "--offline", "--locked"]).args(more).current_dir(stage.path("package"));
    let mut command = stage.careless(command, None);
    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", sysroot().join("bin").display()));
    run(command, &stage.path("run.log"));
}

fn write_package(stage: &Stage) {
    let package = stage.path("package");
    fs::create_dir_all(package.join("attempts")).expect("made");
    fs::create_dir_all(package.join("src")).expect("made");
    let attempts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/escapes/attempts");
    for entry in fs::read_dir(attempts).expect("the attempts").flatten() {
        fs::copy(entry.path(), package.join("attempts").join(entry.file_name())).expect("copied");
    }
    let text = stage.text();
    for (name, text) in [("Cargo.toml", MANIFEST), ("Cargo.lock", LOCK), ("src/main.rs", MAIN), ("attempts/stage.txt", &text)] {
        fs::write(package.join(name), text).expect("written");
    }
}

/// Runs the program that was built, and copies it as nobody should.
fn said_by(stage: &Stage, program: &Path) -> BTreeMap<String, String> {
    let output = Command::new(program).output().expect("the program runs");
    stage.copy_carelessly(program);
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().filter_map(|line| line.split_once(": ")).map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

/// Runs a program to its end; what it says goes to a file, which no daemon keeps open for us to wait for.
#[track_caller]
fn run(mut command: Command, log: &Path) {
    fs::remove_file(log).ok();
    // Others may write to it too, by opening it again.
    let file = File::options().append(true).create_new(true).open(log).expect("a log");
    command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
    let mut child = command.spawn().expect("it starts");
    let ended = df_testkit::wait_until(DEADLINE, || child.try_wait().expect("a child"));
    if ended.is_none() {
        child.kill().ok();
        child.wait().ok();
    }
    let said = || fs::read_to_string(log).unwrap_or_default();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", said());
}

/// Not a test: what [`Sandboxed::build`] starts in a process of its own.
#[test]
fn the_build_that_another_test_asks_for() {
    let Ok(stage) = std::env::var("ESCAPES_STAGE") else { return };
    let stage = Path::new(&stage);
    let strict = std::env::var("ESCAPES_SANDBOX").is_ok_and(|sandbox| sandbox == "strict");
    let tool = match std::env::var("ESCAPES_COMMAND") {
        Ok(command) => BuildTool::Command { command, output: PathText::new("out").expect("a path") },
        Err(_) => BuildTool::Cargo(CargoBuild { profile: "release".into(), default_features: true, ..CargoBuild::default() }),
    };
    let section = BuildSection {
        tool,
        include: BTreeMap::new(),
        outside_links: vec![],
        relocatable: Relocatable::Warn,
        sandbox: if strict { Sandbox::Strict } else { Sandbox::Off },
        fetch: vec![],
        is_static: false,
    };
    let builder = Builder::new(&stage.join("cache"), AppName::new("app").expect("a name")).expect("a builder");
    let repository = Repository::open(&stage.join("repo")).expect("a repository");
    let commit = repository.resolve("HEAD").expect("a commit");
    let mut said = String::new();
    let built =
        builder.build(&repository, &commit, &section, &mut |event| said += &format!("{event}\n"), &AtomicBool::new(false));
    match built {
        Ok(built) => {
            let copied = Command::new("cp").arg("-a").args([&built.output, &stage.join("output")]).status().expect("cp");
            assert!(copied.success());
        }
        Err(BuildError::Failed { what, how, lines, .. }) => said += &format!("error: {what}: {how}\n{}\n", lines.join("\n")),
        Err(error) => said += &format!("error: {error}\n"),
    }
    fs::write(stage.join("said"), said).expect("written");
}
