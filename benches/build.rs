//! What does `df build` cost beside plain cargo?
//!
//! In one run, in turn: a changed line of a published server of some 190 crates (`df build` of the commit, `cargo build --release --offline` in a warm
//! checkout that differs by that line alone), a commit that is built already, a first build when what the lock names was fetched before, and the same
//! change in a workspace of several crates, where cargo finds more to keep than df does. What the sandbox costs by itself is the difference between a
//! command that does nothing, shut in and not. Where df's time goes is what `df build -v` says, by when it says it.
//!
//!     cargo bench --bench build                   (or `-- server`, `-- workspace`, `-- command`: a part of it)
//!
//! Prints a table and writes target/bench/build.json. The server comes from `ci/fetch-real`, as light as it says there; the workspace is generated.

#[allow(dead_code, reason = "written for the tests, which need more of it")]
#[path = "../tests/support/mod.rs"]
mod support;
#[allow(dead_code, reason = "df is started with other words here")]
mod timing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use df_testkit::repo::Repo;
use df_testkit::tree::Tree;
use support::shared;
use timing::{Row, measure, report};

/// Changed lines; the median is of these.
const N_CHANGES: usize = 5;
/// First builds: each takes minutes, so little else counts.
const N_FIRST: usize = 1;
/// Commands that do nothing.
const N_COMMANDS: usize = 10;
/// A changed line, a first build: how many times plain cargo they may take.
const CHANGE_RATIO: f64 = 1.15;
const FIRST_RATIO: f64 = 1.1;
/// A commit that is built already.
const KNOWN_MS: f64 = 50.0;

const SERVER: &str = "static-web-server";
/// What makes the server what people install, but for brotli and zstd at their slowest: over 150 crates.
const FEATURES: &str = "compression,directory-listing,directory-listing-download,basic-auth,fallback-page,metrics,http2-ring";
/// Packages of the generated workspace, each needing the one before.
const N_MEMBERS: usize = 8;
/// Functions of each: enough for a second of compiling.
const N_FUNCTIONS: usize = 15;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    let mut rows = vec![];
    if wanted("server") {
        rows.extend(server());
    }
    if wanted("workspace") {
        let workspace = Project::new("workspace", workspace_tree(), "m0/src/lib.rs", "program", "");
        workspace.plain(true);
        workspace.df();
        rows.extend(changes("a changed line, 8 packages", None, &workspace));
    }
    if wanted("command") {
        rows.extend(["strict", "off"].map(commands));
    }
    report("build", &rows);
    for row in rows.iter().filter(|row| row.aim_ms.is_some_and(|aim| row.median_ms > aim)) {
        println!("missed: {} takes {:.1} ms", row.name, row.median_ms);
    }
}

fn server() -> Vec<Row> {
    let server = Project::new("server", server_tree(), "src/lib.rs", SERVER, FEATURES);
    server.fetch();
    let mut rows = first_builds(&server);
    rows.extend(changes("a changed line", Some(CHANGE_RATIO), &server));
    rows.push(measure("df build, a commit that is built", Some(KNOWN_MS), || server.df_command()));
    rows
}

/// A project that is built by df from its repository, and by cargo in a checkout beside it.
struct Project {
    dir: PathBuf,
    repo: Repo,
    changed: &'static str,
    features: &'static str,
}

impl Project {
    /// Makes both anew, without anything that an earlier run built.
    fn new(name: &str, tree: Tree, changed: &'static str, program: &str, features: &'static str) -> Self {
        let dir = shared().join("bench-build").join(name);
        remove(&dir);
        let repo = Repo::new(&dir.join("repo"));
        let mut committed = tree.clone();
        let yaml = format!("app: {name}\nbuild:\n  cargo: {{ package: {program}, features: [{features}] }}\n");
        committed.0.extend(Tree::of_files(&[("df.yaml", &yaml)]).0);
        repo.commit_over(&committed, "as published");
        tree.write(&dir.join("checkout"));
        Self { dir, repo, changed, features }
    }

    /// Changes one line, in the checkout and as a commit. The checkout's other files stay as old as they are, or cargo would look at them again.
    fn change(&self, n: usize) {
        let file = self.dir.join("checkout").join(self.changed);
        let old = std::fs::read_to_string(&file).expect("a file of the project");
        let kept: String = old.lines().filter(|line| !line.ends_with("// changed")).flat_map(|line| [line, "\n"]).collect();
        let new = format!("{kept}#[doc(hidden)] pub const CHANGED: usize = {n}; // changed\n");
        std::fs::write(&file, &new).expect("written");
        self.repo.commit(&[(self.changed, &new)], &format!("change {n}"));
    }

    /// Builds by plain cargo, from nothing or with what it has.
    fn plain(&self, from_nothing: bool) -> Took {
        let target = self.dir.join("target");
        if from_nothing {
            remove(&target);
        }
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--locked", "--offline", "--features", self.features, "--target-dir"]).arg(target);
        cargo.current_dir(self.dir.join("checkout"));
        run(cargo, |_, _| {})
    }

    /// Builds HEAD by df; returns also the milliseconds until each phase was said.
    fn df(&self) -> (Took, BTreeMap<String, f64>) {
        let mut phases = BTreeMap::new();
        let mut df = self.df_command();
        df.arg("-v");
        let took = run(df, |line, at| {
            let phase = line.trim();
            if ["source", "fetch", "dependencies", "compile", "output"].contains(&phase) {
                phases.entry(phase.to_owned()).or_insert(at);
            }
        });
        (took, phases)
    }

    fn df_command(&self) -> Command {
        df(&self.dir, self.repo.dir())
    }

    /// Lets df fetch what the lock names; it is killed when it begins to compile, which loses nothing but what it began.
    fn fetch(&self) {
        let mut df = self.df_command();
        let mut child = df.arg("-v").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stderr.take().expect("piped above")).lines();
        let compiles = lines.map_while(Result::ok).any(|line| ["dependencies", "compile"].contains(&line.trim()));
        assert!(compiles, "df never began to compile");
        child.kill().expect("it runs");
        child.wait().expect("a child of this process");
    }

    /// Makes df forget what it compiled, and keep what it fetched.
    fn forget(&self) {
        for name in ["layers", "target"] {
            remove(&self.dir.join("cache/df/build").join(name));
        }
    }
}

/// First builds in turn. For df also the first change after one is new, so each round is a commit of its own.
fn first_builds(server: &Project) -> Vec<Row> {
    let (mut plain, mut df) = (vec![], vec![]);
    for n in 0..N_FIRST {
        server.change(1000 + n);
        plain.push(server.plain(true));
        server.forget();
        df.push(server.df().0);
    }
    beside("a first build", Some(FIRST_RATIO), &plain, &df)
}

/// Changed lines in turn, and by which phase df was when.
fn changes(name: &str, ratio: Option<f64>, project: &Project) -> Vec<Row> {
    let (mut plain, mut df, mut phases) = (vec![], vec![], BTreeMap::<String, Vec<f64>>::new());
    for n in 0..N_CHANGES {
        project.change(n);
        // Each goes first every other time: the second finds the commit's files in memory.
        let order = if n % 2 == 0 { [true, false] } else { [false, true] };
        for is_plain in order {
            if is_plain {
                plain.push(project.plain(false));
                continue;
            }
            let (took, said) = project.df();
            df.push(took);
            for (phase, at) in said {
                phases.entry(phase).or_default().push(at);
            }
        }
    }
    let mut rows = beside(name, ratio, &plain, &df);
    let mut told: Vec<Row> =
        phases.into_iter().map(|(phase, at)| Row::of(&format!("  until df says `{phase}`"), None, at)).collect();
    told.sort_by(|a, b| a.median_ms.total_cmp(&b.median_ms));
    rows.extend(told);
    rows
}

/// Rows for both, and on the screen by how much they differ.
fn beside(name: &str, ratio: Option<f64>, plain: &[Took], df: &[Took]) -> Vec<Row> {
    let row =
        |who: &str, aim_ms, took: &[Took]| Row::of(&format!("{who}, {name}"), aim_ms, took.iter().map(|took| took.ms).collect());
    let plain_row = row("cargo build", None, plain);
    let df_row = row("df build", ratio.map(|ratio| ratio * plain_row.median_ms), df);
    let cpu = |took: &[Took]| Row::of("  of a core", None, took.iter().map(|took| took.cpu_ms).collect());
    let (plain_cpu, df_cpu) = (cpu(plain), cpu(df));
    let (by_clock, by_cpu) = (df_row.median_ms / plain_row.median_ms, df_cpu.median_ms / plain_cpu.median_ms);
    println!("{name}: df takes {by_clock:.3} times what cargo takes by the clock, {by_cpu:.3} times the time of cores");
    vec![plain_row, plain_cpu, df_row, df_cpu]
}

/// Builds by a command that does nothing, shut in or not.
fn commands(sandbox: &str) -> Row {
    let dir = shared().join("bench-build").join(format!("command-{sandbox}"));
    remove(&dir);
    let repo = Repo::new(&dir.join("repo"));
    let yaml = format!("app: command\nbuild: {{ command: \"mkdir out && cp n out/\", output: out, sandbox: {sandbox} }}\n");
    let took = (0..=N_COMMANDS).map(|n| {
        repo.commit(&[("df.yaml", &yaml), ("n", &n.to_string())], &n.to_string());
        run(df(&dir, repo.dir()), |_, _| {}).ms
    });
    // The first one asks the tools for their versions.
    Row::of(&format!("df build, a command that does nothing, {sandbox}"), None, took.skip(1).collect())
}

fn df(dir: &Path, repo: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_df"));
    command.arg("-C").arg(repo).arg("--state").arg(dir.join("state")).arg("build");
    command.env("XDG_CACHE_HOME", dir.join("cache")).env("NO_COLOR", "1").env("CARGO_NET_OFFLINE", "true");
    command
}

/// What a program took, and what it and all that it started took of the cores: on a busy machine the second is the fairer one.
struct Took {
    ms: f64,
    cpu_ms: f64,
}

/// Runs a program; hands out each line it writes to stderr with the milliseconds since its start.
fn run(mut command: Command, mut heard: impl FnMut(&str, f64)) -> Took {
    command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_INCREMENTAL").env_remove("RUSTFLAGS");
    let (began, cpu_before) = (Instant::now(), cpu_ms_of_children());
    let ms = || began.elapsed().as_secs_f64() * 1000.0;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().expect("piped above")).lines() {
        let line = line.expect("UTF-8");
        heard(&line, ms());
        let _ = writeln!(said, "{line}");
    }
    let status = child.wait().expect("a child of this process");
    let took = Took { ms: ms(), cpu_ms: cpu_ms_of_children() - cpu_before };
    assert!(status.success(), "{command:?}: {status}\n{said}");
    took
}

/// Returns what processes that were waited for have taken of the cores, theirs included: fields 16 and 17 of proc(5)'s stat, in hundredths of a second.
fn cpu_ms_of_children() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a last part");
    let ticks: u64 = after_name.split_whitespace().skip(13).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    ticks as f64 * 10.0
}

fn server_tree() -> Tree {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let real = std::env::var_os("DF_REAL_DIR").map_or_else(|| root.join("target/real"), |dir| root.join(dir));
    let dir = real.join(SERVER).join("2.44.1");
    assert!(dir.is_dir(), "there is no {}: run ci/fetch-real first", dir.display());
    Tree::read(&dir)
}

/// A workspace without foreign packages; the program is the last of its packages and needs all others.
fn workspace_tree() -> Tree {
    let names: Vec<String> = (0..N_MEMBERS - 1).map(|n| format!("m{n}")).chain(["program".to_owned()]).collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let mut files =
        vec![("Cargo.toml".to_owned(), format!("[workspace]\nresolver = \"2\"\nmembers = [{}]\n", quoted.join(", ")))];
    let mut lock = "version = 4\n".to_owned();
    for (n, name) in names.iter().enumerate() {
        // The changed package is the first, and only the program needs it: cargo keeps the others.
        let needs: Vec<&String> = if name == "program" { names[..n].iter().collect() } else { vec![] };
        let dependencies: String = needs.iter().map(|need| format!("{need} = {{ path = \"../{need}\" }}\n")).collect();
        let manifest =
            format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\n{dependencies}");
        files.push((format!("{name}/Cargo.toml"), manifest));
        let (file, code) = if name == "program" { ("src/main.rs", program(&needs)) } else { ("src/lib.rs", library()) };
        files.push((format!("{name}/{file}"), code));
        let locked: String = needs.iter().map(|need| format!(" \"{need}\",\n")).collect();
        let locked = if needs.is_empty() { String::new() } else { format!("dependencies = [\n{locked}]\n") };
        let _ = write!(lock, "\n[[package]]\nname = \"{name}\"\nversion = \"0.1.0\"\n{locked}");
    }
    files.push(("Cargo.lock".to_owned(), lock));
    Tree::of_files(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
}

fn program(needs: &[&String]) -> String {
    let calls: String = needs.iter().map(|need| format!("    sum += {need}::f0(sum);\n")).collect();
    format!("fn main() {{\n    let mut sum = std::env::args().count();\n{calls}    println!(\"{{sum}}\");\n}}\n")
}

/// Code that takes a compiler some time: functions that each sort and print something.
fn library() -> String {
    let mut code = String::new();
    for n in 0..N_FUNCTIONS {
        let next = if n + 1 == N_FUNCTIONS { "x".to_owned() } else { format!("f{}(x + {n})", n + 1) };
        let _ = writeln!(
            code,
            "pub fn f{n}(x: usize) -> usize {{\n    let mut words: Vec<String> = (0..x % 7).map(|i| format!(\"{{i}} of {n}\")).collect();\n    \
             words.sort_by(|a, b| b.cmp(a));\n    words.iter().map(String::len).sum::<usize>() + {next}\n}}"
        );
    }
    code
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        assert!(error.kind() == std::io::ErrorKind::NotFound, "remove {}: {error}", dir.display());
    }
}
