//! Starting a program many times, and what that took: shared by the benches.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::shared;

const N_RUNS: usize = 20;

/// What one command took.
pub struct Row {
    /// What it is called in the table.
    pub name: String,
    /// What its median should stay under.
    pub aim_ms: Option<f64>,
    /// The shortest run.
    pub least_ms: f64,
    /// The middle one.
    pub median_ms: f64,
    /// The longest one.
    pub most_ms: f64,
    /// How many there were.
    pub n_runs: usize,
}

/// Runs a command once to warm up and then many times. A command that fails ends the bench: failing is quick and proves nothing.
pub fn measure(name: &str, aim_ms: Option<f64>, make: impl Fn() -> Command) -> Row {
    once_ms(name, make());
    Row::of(name, aim_ms, (0..N_RUNS).map(|_| once_ms(name, make())).collect())
}

/// Returns `df` as the tests start it, without the pauses of their waiting.
pub fn command(repo: &Path, state: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_df"));
    command.arg("-C").arg(repo).arg("--state").arg(state).args(words);
    command.env("XDG_CACHE_HOME", shared().join("cache")).env("NO_COLOR", "1").env_remove("DF_SSH_CONFIG");
    command
}

/// Prints the rows as a table and writes them as JSON below the target directory.
pub fn report(bench: &str, rows: &[Row]) {
    println!("{:<48} {:>9} {:>9} {:>9} {:>5}   in ms", bench, "least", "median", "most", "runs");
    for row in rows {
        let aim = row.aim_ms.map(|aim| format!("aim {aim:.0}")).unwrap_or_default();
        let Row { name, least_ms, median_ms, most_ms, n_runs, .. } = row;
        println!("{name:<48} {least_ms:>9.1} {median_ms:>9.1} {most_ms:>9.1} {n_runs:>5}   {aim}");
    }
    let json = serde_json::json!({
        "bench": bench,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
    });
    let dir = shared().ancestors().nth(2).expect("the target directory").join("bench");
    let file = dir.join(format!("{bench}.json"));
    let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, format!("{json:#}\n")));
    written.unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
    println!("written to {}", file.display());
}

impl Row {
    /// Sums up how long each run took, in milliseconds.
    pub fn of(name: &str, aim_ms: Option<f64>, mut took: Vec<f64>) -> Self {
        took.sort_by(f64::total_cmp);
        let at = |index: usize| took.get(index).copied().unwrap_or(f64::NAN);
        let n_runs = took.len();
        let last = n_runs.saturating_sub(1);
        Self { name: name.to_owned(), aim_ms, least_ms: at(0), median_ms: at(n_runs / 2), most_ms: at(last), n_runs }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "aim_ms": self.aim_ms,
            "least_ms": self.least_ms,
            "median_ms": self.median_ms,
            "most_ms": self.most_ms,
            "runs": self.n_runs,
        })
    }
}

fn once_ms(name: &str, mut command: Command) -> f64 {
    let began = Instant::now();
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("start {name}: {error}"));
    let took = began.elapsed().as_secs_f64() * 1000.0;
    assert!(output.status.success(), "{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    took
}
