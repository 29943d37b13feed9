//! The GitHub Actions step, without GitHub: the steps of ci/action.yml run in a plain shell with the runner's variables and the environment that the file gives
//! them, and outputs, summary, masks and locks are what the page docs/github-actions.md promises.

mod action;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::process::{Child, Output, Run, wait_until};
use df_testkit::repo::Repo;
use df_testkit::s3::Server;
use df_testkit::survivors;

use crate::support::{World, versions};
use action::Action;

const DEADLINE: Duration = Duration::from_secs(120);

/// One job: a checkout, a node, and the files that GitHub's runner gives to steps.
struct Job {
    dir: tempfile::TempDir,
    inputs: BTreeMap<&'static str, String>,
    env: Vec<(String, String)>,
}

impl Job {
    /// A job of a small repository without ports, and of a node in a directory.
    fn new() -> Self {
        let job = Self::bare();
        let yaml = "app: page\nbuild:\n  command: cp -r pages dist\n  output: dist\n";
        Repo::new(&job.path("checkout")).commit(&[("df.yaml", yaml), ("pages/index.html", "hello")], "a page");
        let node = format!("local:{}", job.path("node").display());
        job.with("nodes", &node).with("working-directory", "checkout")
    }

    fn bare() -> Self {
        let dir = tempfile::Builder::new().prefix("df-action").tempdir().expect("a directory");
        fs::create_dir(dir.path().join("temp")).expect("a new directory");
        Self { dir, inputs: BTreeMap::new(), env: vec![] }.with("df-path", env!("CARGO_BIN_EXE_df"))
    }

    fn with(mut self, input: &'static str, value: &str) -> Self {
        self.inputs.insert(input, value.to_owned());
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns a step as the runner starts it.
    fn step(&self, step: &str) -> Run {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/action/run");
        let mut run = Run::new(script)
            .arg(step)
            .dir(self.dir.path())
            .deadline(DEADLINE)
            .env("RUNNER_TEMP", self.path("temp"))
            .env("RUNNER_OS", "Linux")
            .env("RUNNER_ARCH", "X64")
            .env("GITHUB_RUN_ID", "7")
            .env("GITHUB_OUTPUT", self.path("outputs"))
            .env("GITHUB_STEP_SUMMARY", self.path("summary"))
            .env("GITHUB_ACTION_PATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("ci"))
            .env("XDG_CACHE_HOME", self.path("cache"));
        // What the one who runs the tests has is nobody's input.
        run = run.env_remove("SSH_AUTH_SOCK");
        for (name, value) in Action::read().environment(step, &self.inputs) {
            run = run.env(name, value);
        }
        for (name, value) in &self.env {
            run = run.env(name, value);
        }
        run
    }

    /// Makes a key that is in no file, and returns both halves.
    fn key(&self) -> (String, String) {
        let file = self.path("key");
        Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "ci", "-f"]).arg(&file).ok();
        let halves = [file.clone(), file.with_extension("pub")].map(|file| {
            let text = fs::read_to_string(&file).expect("a key");
            fs::remove_file(file).expect("its file");
            text
        });
        halves.into()
    }

    /// Has df.yaml believe one key and nobody else.
    fn believe(&self, public: &str) {
        let yaml = self.text("checkout/df.yaml") + &format!("trust: {{ threshold: 1, keys: [\"{}\"] }}\n", public.trim());
        fs::write(self.path("checkout/df.yaml"), yaml).expect("df.yaml");
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Returns the last value of an output of the step that runs df, by the action's name for it.
    fn output(&self, name: &str) -> String {
        self.output_of_step(&Action::read().outputs[name])
    }

    /// Returns the last value of an output of a step.
    fn output_of_step(&self, name: &str) -> String {
        let outputs = self.text("outputs");
        let mut values = outputs.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        values.next_back().unwrap_or_default().to_owned()
    }

    /// Puts a program before all others of this name.
    fn put_program(&mut self, name: &str, script: &str) {
        let place = self.path("bin").join(name);
        fs::create_dir_all(self.path("bin")).expect("a directory");
        fs::write(&place, script).expect("a new file");
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).expect("its mode");
        let path = std::env::var("PATH").unwrap_or_default();
        self.env = vec![("PATH".to_owned(), format!("{}:{path}", self.path("bin").display()))];
    }
}

/// An agent of the job's own.
struct Agent {
    socket: PathBuf,
    pid: i32,
}

impl Agent {
    fn holding(job: &Job, private: &str) -> Self {
        let socket = job.path("agent");
        let said = Run::new("ssh-agent").args(["-s", "-a"]).arg(&socket).ok().stdout;
        let pid = said.split("SSH_AGENT_PID=").nth(1).and_then(|rest| rest.split(';').next()?.parse().ok()).expect("its id");
        let agent = Self { socket, pid };
        Run::new("ssh-add").args(["-q", "-"]).env("SSH_AUTH_SOCK", &agent.socket).stdin(private.as_bytes()).ok();
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        survivors::kill_under(self.dir.path());
    }
}

#[test]
fn a_job_deploys_and_says_what_serves() {
    let job = Job::new();
    job.step("prepare").ok();
    assert_eq!(job.output_of_step("build"), "false", "a df was given");
    assert_eq!(job.output_of_step("cache"), job.path("cache/df").display().to_string());
    assert!(job.output_of_step("cache-key").starts_with(&job.output_of_step("cache-prefix")));
    let said = job.step("run").ok();
    let (image, commit) = (job.output("image"), job.output("commit"));
    assert!(image.len() == 64 && commit.len() == 40, "{said}");
    assert_eq!((job.output("generation").as_str(), job.output("result").as_str()), ("1", "done"));
    assert!(job.output("bytes-sent").parse::<u64>().expect("a number") > 0);
    let summary = job.text("summary");
    for part in ["### df deploy: done", &image, &commit, "| serves |", "generation 1"] {
        assert!(summary.contains(part), "{part} is not in {summary}");
    }
    // Between the two marks the runner takes nothing for a command of its own.
    let stop = said.stdout.lines().find_map(|line| line.strip_prefix("::stop-commands::")).expect("a mark");
    assert!(said.stdout.contains(&format!("\n::{stop}::\n")), "{said}");
    // The second time nothing is compiled, nothing is sent, and the same generation serves.
    job.step("run").ok();
    assert_eq!((job.output("generation").as_str(), job.output("bytes-sent").as_str()), ("1", "0"));
    job.step("tidy").ok();
}

#[test]
fn a_build_asks_no_node_and_shows_its_events_when_asked_to() {
    let job = Job::new().with("command", "build").with("json", "true").with("nodes", "");
    let said = job.step("run").ok();
    assert!(said.stdout.contains("{\"type\":\"built\","), "{said}");
    assert_eq!((job.output("generation").as_str(), job.output("bytes-sent").as_str()), ("", "0"));
    assert!(!job.path("node").exists());
}

#[test]
fn a_failure_is_the_jobs_failure_and_says_why() {
    let job = Job::new().with("version", "0123456789");
    let said = job.step("run").output();
    assert_eq!(said.code, Some(2), "{said}");
    assert_eq!(job.output("result"), "usage");
    assert!(job.text("summary").contains("**error**"), "{}", job.text("summary"));
    assert!(said.stdout.contains("::error title=df deploy::usage"), "{said}");
}

#[test]
fn inputs_are_words_and_never_commands() {
    let evil = [
        ("command", "deploy; touch owned"),
        ("command", "--help"),
        ("version", "$(touch owned)"),
        ("version", "--yes"),
        ("s3-bucket", "b`touch owned`"),
        ("region", "eu\nAWS=1"),
        ("nodes", "-oProxyCommand=touch"),
        ("args", "'open"),
        ("working-directory", "nowhere"),
        ("df-path", "no/program"),
        ("json", "perhaps"),
        ("sign", "yes"),
    ];
    for (input, value) in evil {
        let job = Job::new().with(input, value);
        for step in ["prepare", "run"] {
            let said = job.step(step).output();
            assert_eq!(said.code, Some(2), "{input}={value}: {said}");
            let told = format!("::error title=df::{input}: ");
            assert!(said.stdout.contains(&told), "{input}={value} is not refused as {input}: {said}");
        }
        assert!(!job.path("owned").exists() && !job.path("checkout/owned").exists());
    }
    // Words of args reach df as they are.
    let job = Job::new().with("args", "--nonsense='$(touch owned) *'");
    let said = job.step("run").output();
    assert_eq!(said.code, Some(2), "{said}");
    assert!(said.stdout.contains("'--nonsense'"), "{said}");
    assert!(!job.path("owned").exists() && !job.path("checkout/owned").exists());
}

#[test]
fn a_key_is_masked_and_never_in_a_file() {
    let job = Job::new();
    let (key, _) = job.key();
    let job = job.with("ssh-private-key", key.trim_end()).with("known-hosts", "example.org ssh-ed25519 AAAA");
    let secret: Vec<&str> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    for step in ["prepare", "run", "tidy"] {
        let Output { stdout, stderr, .. } = job.step(step).ok();
        for line in &secret {
            let shown = stdout.lines().chain(stderr.lines()).filter(|said| said.contains(line));
            let shown: Vec<&str> = shown.collect();
            assert!(shown.iter().all(|said| *said == format!("::add-mask::{line}")), "{step}: {shown:?}");
            assert!(step == "tidy" || shown.len() == 1, "{step} masks each line once");
        }
        nothing_is_left(&job, secret[0]);
    }
}

/// Expects a step to leave the events and nothing of the agent.
#[track_caller]
fn nothing_is_left(job: &Job, secret: &str) {
    let found = Run::new("grep").args(["-rlF", secret]).arg(job.dir.path()).output();
    assert_eq!((found.code, found.stdout.as_str()), (Some(1), ""), "the key lies in a file");
    let entries = fs::read_dir(job.path("temp/df-action")).expect("a directory");
    let names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(names.iter().all(|name| name == "events.jsonl"), "the agent's files are there: {names:?}");
}

#[test]
fn a_key_that_is_none_is_refused_in_words() {
    let job = Job::new().with("ssh-private-key", "not a key");
    let said = job.step("run").output();
    assert_eq!(said.code, Some(2), "{said}");
    assert!(said.stdout.contains("ssh-private-key is no key"), "{said}");
}

#[test]
fn where_namespaces_are_restricted_the_build_runs_by_sudo_and_nothing_else_does() {
    let mut job = Job::new();
    job.put_program("unshare", "#!/bin/sh\nexit 1\n");
    // Whoever runs this test may be root, who needs no namespaces of ordinary users.
    job.put_program("id", "#!/bin/sh\necho 1000\n");
    // Notes what it was asked to run, and runs it, but for giving files to a user who is not here.
    let noted = job.path("as-root").display().to_string();
    let script =
        "#!/bin/sh\nshift\n[ \"$1\" != -- ] || shift\necho \"$*\" >> 'NOTED'\n[ \"$1\" != chown ] || exit 0\nexec \"$@\"\n";
    job.put_program("sudo", &script.replace("NOTED", &noted));
    let said = job.step("prepare").ok();
    assert!(said.stdout.contains("::notice title=df::user namespaces are restricted"), "{said}");
    let said = job.step("run").ok();
    assert!(said.stdout.contains("the build runs as root"), "{said}");
    let as_root = job.text("as-root");
    assert!(as_root.lines().any(|line| line.ends_with("build")), "{as_root}");
    assert!(as_root.lines().any(|line| line.starts_with("chown -R")), "{as_root}");
    assert!(!as_root.contains("deploy"), "{as_root}");
    assert_eq!(job.output("result"), "done");
    job.put_program("sudo", "#!/bin/sh\nexit 1\n");
    let said = job.step("prepare").output();
    assert_eq!(said.code, Some(2), "{said}");
    assert!(said.stdout.contains("there is no sudo"), "{said}");
}

#[test]
fn a_cancelled_job_leaves_no_lock() {
    let (versions, world) = (versions(), World::new(1));
    world.deploy(&versions.v1);
    let state = world.path("state");
    let job = Job::bare()
        .with("working-directory", &versions.repo.display().to_string())
        .with("version", &versions.never_ready)
        .with("args", &format!("--state {}", state.display()));
    let mut step: Child = job.step("run").env("XDG_CACHE_HOME", crate::support::shared().join("cache")).spawn();
    // Its process is started and will never be ready: the deploy is in the middle.
    let lock = world.node(1).join("run/lock");
    let held = wait_until(DEADLINE, || fs::read(&lock).ok().filter(|holder| !holder.is_empty()));
    assert!(held.is_some(), "the deploy never locked {}", lock.display());
    // As the runner does it: an interrupt to the step's first process, and only to it.
    step.signal(libc::SIGINT);
    let said = step.finish(DEADLINE);
    assert_eq!(said.code, Some(130), "{said}");
    assert_eq!(job.output("result"), "interrupted");
    // df-node notices the end of the connection a moment later. The lock is the flock; what the file says is for people.
    let file = fs::File::open(&lock).expect("the lock's file");
    let is_free = || rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok();
    assert!(wait_until(Duration::from_secs(20), is_free).is_some(), "somebody holds the lock: {said}");
    drop(file);
    world.expect_serving(&versions.v1);
    // Nobody has to wait, or to break anything open.
    world.deploy(&versions.v2);
}

#[test]
fn a_bucket_gets_the_version() {
    let help = Run::new(env!("CARGO_BIN_EXE_df")).args(["cache", "persist", "--help"]).output();
    if help.code != Some(0) {
        return; // this df has no such command
    }
    let server = Server::start();
    let mut job = Job::new().with("s3-bucket", &format!("{}/cache", server.bucket())).with("region", "us-east-1");
    let yaml = job.text("checkout/df.yaml") + &format!("cache: {{ endpoint: \"{}\" }}\n", server.endpoint());
    fs::write(job.path("checkout/df.yaml"), yaml).expect("df.yaml");
    job.env = server.env();
    job.step("run").ok();
    assert!(server.keys().iter().any(|key| key == "cache/head"), "{:?}", server.keys());
    assert_eq!(job.output("result"), "done");
}

#[test]
fn a_job_that_attests_what_it_builds_deploys_to_nodes_that_believe_only_keys() {
    let job = Job::new();
    let ((opens, _), (attests, public)) = (job.key(), job.key());
    job.believe(&public);
    let job = job.with("ssh-private-key", &opens);
    let said = job.step("run").output();
    assert_eq!((said.code, job.output("result").as_str()), (Some(10), "refused"), "nobody attested it: {said}");
    let job = job.with("signing-key", attests.trim_end());
    for step in ["prepare", "run", "tidy"] {
        let said = job.step(step).ok();
        let secret: Vec<&str> = attests.lines().filter(|line| !line.starts_with("-----")).collect();
        for line in &secret {
            let mut shown = said.stdout.lines().chain(said.stderr.lines()).filter(|said| said.contains(line));
            assert!(shown.all(|said| said == format!("::add-mask::{line}")), "{step} shows the key");
        }
        nothing_is_left(&job, secret[1]);
    }
    assert_eq!((job.output("result").as_str(), job.output("generation").as_str()), ("done", "1"));
}

#[test]
fn the_agent_of_the_job_attests_although_another_key_opens_the_nodes() {
    let job = Job::new();
    let ((opens, _), (attests, public)) = (job.key(), job.key());
    job.believe(&public);
    let agent = Agent::holding(&job, &attests);
    let job = job.with("ssh-private-key", &opens).with("sign", "true");
    let said = job.step("run").env("SSH_AUTH_SOCK", &agent.socket).ok();
    assert!(said.stdout.contains("attested by SHA256:"), "{said}");
    assert_eq!(job.output("result"), "done");
    // It is the job's: it lives on, and the key that opens the nodes never came into it.
    let held = Run::new("ssh-add").arg("-L").env("SSH_AUTH_SOCK", &agent.socket).ok().stdout;
    assert_eq!(held.lines().count(), 1, "{held}");
}

#[test]
fn what_is_not_built_here_is_not_attested_in_silence() {
    for (command, version) in [("deploy", "0123456"), ("cp", "0123456"), ("status", "")] {
        let job = Job::new().with("command", command).with("version", version).with("sign", "true");
        let said = job.step("prepare").output();
        assert_eq!(said.code, Some(2), "{command}: {said}");
        assert!(said.stdout.contains("::error title=df::sign: "), "{command}: {said}");
    }
    let job = Job::new().with("signing-key", "not a key");
    let said = job.step("run").output();
    assert!(said.code == Some(2) && said.stdout.contains("signing-key is no key"), "{said}");
}

/// Returns the names of the variables with this beginning that a script reads or sets.
fn variables<'a>(script: &'a str, beginning: &str) -> BTreeSet<&'a str> {
    let is_part = |c: char| c.is_ascii_uppercase() || c == '_';
    let starts = script.match_indices(beginning).map(|(start, _)| start);
    let whole = starts.filter(|&start| !script[..start].ends_with(is_part));
    whole.map(|start| script[start..].split(|c| !is_part(c)).next().unwrap_or_default()).collect()
}

#[test]
fn each_input_has_a_variable_that_the_script_reads_and_each_output_is_one_that_it_writes() {
    let (action, script) = (Action::read(), Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/action/run"));
    let script = fs::read_to_string(script).expect("ci/action/run");
    let code: String =
        script.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| format!("{line}\n")).collect();
    // What it says to df, and no input.
    let own = BTreeSet::from(["DF_NO_BACKGROUND", "DF_SSH_CONFIG"]);
    let read: BTreeSet<&str> = variables(&code, "DF_").difference(&own).copied().collect();
    for step in ["prepare", "run"] {
        let env = &action.steps[step];
        let given: BTreeSet<&str> = env.keys().map(String::as_str).collect();
        assert_eq!(given, read, "what {step} is given, and what the script reads");
        let used: BTreeSet<&String> = env.values().collect();
        assert_eq!(used, action.inputs.keys().collect(), "what {step} is given, and the inputs");
        assert_eq!(used.len(), env.len(), "one variable for each input");
    }
    // The others get as much as they need, from the same inputs.
    for (step, variable, input) in action.steps.iter().flat_map(|(step, env)| env.iter().map(move |(v, i)| (step, v, i))) {
        assert_eq!(action.steps["run"].get(variable), Some(input), "{variable} in {step}");
    }
    let report = code.split("\nreport() {").nth(1).and_then(|rest| rest.split("\n}\n").next()).expect("what writes outputs");
    let written: BTreeSet<&str> =
        report.lines().filter_map(|line| line.trim().strip_prefix("output ")?.split(' ').next()).collect();
    let named: BTreeSet<&str> = action.outputs.keys().map(String::as_str).collect();
    assert_eq!(written, named);
    assert!(action.outputs.iter().all(|(name, output)| name == output), "{:?}", action.outputs);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/github-actions.md");
    let page = fs::read_to_string(page).expect("docs/github-actions.md");
    for name in action.inputs.keys().chain(action.outputs.keys()) {
        assert!(page.contains(&format!("`{name}`")), "the page does not say what {name} is");
    }
}

#[test]
fn each_input_reaches_df_as_what_it_is() {
    let mut job = Job::new();
    // A df that notes how it was called, and what it would read.
    let noted = job.path("noted").display().to_string();
    let script = "#!/bin/sh\n{ echo \"$*\"; echo \"region $AWS_REGION\"; cat \"${DF_SSH_CONFIG%/*}/known_hosts\"; } >> 'NOTED'\n\
                  echo '{\"type\":\"built\",\"release\":\"r1\"}'\n"
        .replace("NOTED", &noted);
    job.put_program("noting-df", &script);
    let df = job.path("bin/noting-df").display().to_string();
    let job = job.with("df-path", &df).with("command", "cp").with("args", "--level 'small'").with("nodes", "n1\nn2");
    let job = job.with("s3-bucket", "b/p").with("region", "eu-x-1").with("known-hosts", "a-known-host").with("json", "true");
    let said = job.step("run").ok();
    assert!(said.stdout.contains("{\"type\":\"built\",\"release\":\"r1\"}\n"), "json: {said}");
    let calls = job.text("noted");
    for (input, part) in [
        ("working-directory", "-C checkout --json build\n"),
        ("s3-bucket", "-C checkout --json cache persist --s3-bucket b/p\n"),
        ("nodes, command, args", "-C checkout --json --address n1 --address n2 cp --level small --version r1\n"),
        ("region", "region eu-x-1\n"),
        ("known-hosts", "a-known-host\n"),
    ] {
        assert!(calls.contains(part), "{input}: \"{part}\" is not in {calls}");
    }
    let job = job.with("version", "v9").with("sign", "false");
    job.step("run").ok();
    assert!(job.text("noted").contains("cp --level small --version v9\n"), "version: {}", job.text("noted"));
    let job = job.with("version", "").with("sign", "true");
    job.step("run").ok();
    assert!(job.text("noted").contains("--json build --sign\n"), "sign: {}", job.text("noted"));
}
