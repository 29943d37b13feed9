//! What was measured, kept as JSON and as the table of a page.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// A way to switch, and what clients saw of it.
pub struct Row {
    /// What it is called.
    pub name: String,
    /// For how long nobody answered a client that asks all the time, in milliseconds.
    pub gaps_ms: Vec<f64>,
    /// Under load: requests, lost ones, and what 99.9 % of the others did not exceed.
    pub load: Option<Load>,
}

/// What the clients of a load saw.
pub struct Load {
    pub requests: u64,
    pub n_lost: u64,
    pub p999_ms: f64,
    pub n_switches: usize,
}

/// What stands before the table on the page.
const HOW: &str = "What clients notice, measured by `cargo bench --bench switch` with the program of the tests: one client that opens a connection for each request asks all the time, and the longest time without an
answer in the midst of a switch is given; then the same switches under 5,000 requests a second, a third of them over kept connections. `systemctl restart` is that of systemd 252, in a container that shares the network, with the
same program in a unit of its own: it binds by itself, or a socket unit holds its socket.

";

/// Prints the rows, keeps them, and writes the table of the page.
pub fn report(rows: &[Row], steps: Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let results = json!({
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "ways": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "steps": steps,
    });
    fs::write(root.join("benches/results/switch.json"), format!("{results:#}\n")).expect("the results are written");
    let table = table(rows);
    print!("{table}");
    let page = root.join("docs/journey.md");
    let text = fs::read_to_string(&page).expect("the page");
    let (mark, end) = ("<!-- switches -->\n", "<!-- end -->");
    let start = text.find(mark).expect("the mark of the table") + mark.len();
    let stop = start + text[start..].find(end).expect("the end of the table");
    fs::write(page, [&text[..start], HOW, &table, &text[stop..]].concat()).expect("the page is written");
}

impl Row {
    fn sorted(&self) -> Vec<f64> {
        let mut gaps = self.gaps_ms.clone();
        gaps.sort_by(f64::total_cmp);
        gaps
    }

    fn median(&self) -> f64 {
        self.sorted().get(self.gaps_ms.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn most(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    fn json(&self) -> Value {
        let load = self.load.as_ref().map(|load| {
            json!({ "requests": load.requests, "lost": load.n_lost, "p999_ms": load.p999_ms, "switches": load.n_switches })
        });
        json!({ "name": self.name, "median_ms": self.median(), "most_ms": self.most(), "runs": self.gaps_ms.len(), "load": load })
    }
}

fn table(rows: &[Row]) -> String {
    let first = rows.first().map_or(f64::NAN, Row::median);
    let mut lines = vec![
        "| | nobody answers: median | longest | beside `df deploy` | 99.9 % of requests within | requests, lost |".to_owned(),
        "|---|---:|---:|---:|---:|---:|".to_owned(),
    ];
    lines.extend(rows.iter().map(|row| {
        let (within, lost) = row.load.as_ref().map_or(("".into(), "".into()), |load| {
            (format!("{:.0} ms", load.p999_ms), format!("{}, {}", load.requests, load.n_lost))
        });
        let (median, most) = (row.median(), row.most());
        format!("| {} | {median:.2} ms | {most:.2} ms | {:.1} | {within} | {lost} |", row.name, median / first)
    }));
    lines.iter().map(|line| format!("{line}\n")).collect()
}
