//! The figures of a run as a table, and in one number: how many times fewer bytes than rsync.

use serde_json::Value;

/// What others call the tool that every pair is compared with.
const RSYNC: &str = "rsync";

/// Prints a line for each pair that was measured, and the geometric means below.
pub fn print(measured: &Value, peers: &Value) {
    println!(
        "{:<22} {:>10} {:>10} {:>10} {:>9} {:>9} {:>7} {:>7} {:>6} {:>6} {:>6} {:>6} {:>5} {:>5}  best of the others",
        "pair",
        "changed",
        "rsync",
        "best",
        "fast",
        "small",
        "x fast",
        "x small",
        "enc f",
        "enc s",
        "app f",
        "app s",
        "MiB e",
        "MiB a"
    );
    let (mut fast, mut small) = (Mean::default(), Mean::default());
    for (pair, row) in measured.as_object().into_iter().flatten() {
        let bytes = |level: &str| row[level]["bytes"].as_f64().unwrap_or(f64::NAN);
        let of = |level: &str, step: &str, what: &str| row[level][step][what].as_f64().unwrap_or(f64::NAN);
        let rsync = total(&peers[pair]["tools"][RSYNC]).unwrap_or(f64::NAN);
        let (best, name) = best(&peers[pair]["tools"]);
        fast.add(rsync / bytes("fast"));
        small.add(rsync / bytes("small"));
        println!(
            "{pair:<22} {:>10} {rsync:>10} {best:>10} {:>9} {:>9} {:>7.1} {:>7.1} {:>6.0} {:>6.0} {:>6.0} {:>6.0} {:>5.0} {:>5.0}  {name}{}",
            row["changed_bytes"],
            bytes("fast"),
            bytes("small"),
            rsync / bytes("fast"),
            rsync / bytes("small"),
            of("fast", "encode", "mb_s"),
            of("small", "encode", "mb_s"),
            of("fast", "apply", "mb_s"),
            of("small", "apply", "mb_s"),
            of("small", "encode", "peak_mib"),
            of("small", "apply", "peak_mib"),
            if bytes("small") <= best { "" } else { "  LOST" },
        );
    }
    println!(
        "geometric mean of rsync's bytes over df's: {:.1} at level fast, {:.1} at level small ({} pairs)",
        fast.value(),
        small.value(),
        small.n
    );
}

fn best(tools: &Value) -> (f64, &str) {
    let all = tools.as_object().into_iter().flatten().filter_map(|(name, figures)| Some((total(figures)?, name.as_str())));
    all.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::NAN, "none was measured"))
}

/// Bytes up and down, of a tool that made the right tree.
fn total(figures: &Value) -> Option<f64> {
    figures["same"].as_bool()?.then(|| Some(figures["up"].as_f64()? + figures["down"].as_f64()?))?
}

/// A geometric mean; what is not a number is left out.
#[derive(Default)]
struct Mean {
    log: f64,
    n: u32,
}

impl Mean {
    fn add(&mut self, ratio: f64) {
        if ratio.is_finite() {
            self.log += ratio.ln();
            self.n += 1;
        }
    }

    fn value(&self) -> f64 {
        (self.log / f64::from(self.n)).exp()
    }
}
