//! Bytes, durations and moments as people read them.

use std::time::Duration;

use df_core::Timestamp;

/// Returns `12 B`, `1.2 KiB`, `3.4 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Returns `0.2 s`, `3 min 5 s`.
pub fn seconds(s: f64) -> String {
    if s < 60.0 {
        return format!("{s:.1} s");
    }
    let whole = Duration::from_secs_f64(s.min(1e9)).as_secs();
    format!("{} min {} s", whole / 60, whole % 60)
}

/// Returns `1 node`, `3 nodes`.
pub fn nodes(n: usize) -> String {
    if n == 1 { "1 node".into() } else { format!("{n} nodes") }
}

/// Returns `1 change`, `3 changes`.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Returns `41,203 requests, 0 failed, worst 9 ms`.
pub fn requests(n: u64, failed: u64, worst_ms: u64) -> String {
    format!("{} requests, {} failed, worst {worst_ms} ms", thousands(n), thousands(failed))
}

/// Returns `1,000 connections went along`.
pub fn went_along(n: u64) -> String {
    if n == 1 { "1 connection went along".into() } else { format!("{} connections went along", thousands(n)) }
}

/// Returns `1,000 stay with the old version to their end`, for connections.
pub fn stay(n: u64) -> String {
    format!(
        "{} stay{} with the old version to {} end",
        thousands(n),
        if n == 1 { "s" } else { "" },
        if n == 1 { "its" } else { "their" }
    )
}

/// Returns `1,234,567`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let first = digits.len() % 3;
    let mut groups: Vec<&str> = (first..digits.len()).step_by(3).map(|at| &digits[at..at + 3]).collect();
    if first > 0 {
        groups.insert(0, &digits[..first]);
    }
    groups.join(",")
}

/// Returns how long ago a moment was, in one unit: `5 min`, `3 h`, `12 d`.
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let s = now.0.saturating_sub(since.0).max(0);
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..172_800 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_as_people_read_numbers() {
        assert_eq!(requests(41_203, 0, 9), "41,203 requests, 0 failed, worst 9 ms");
        let shown = [0, 7, 999, 1000, 12_345, 123_456, 1_234_567].map(thousands);
        assert_eq!(shown, ["0", "7", "999", "1,000", "12,345", "123,456", "1,234,567"]);
        assert_eq!([1, 1000].map(went_along), ["1 connection went along", "1,000 connections went along"]);
        let stays = ["1 stays with the old version to its end", "1,000 stay with the old version to their end"];
        assert_eq!([1, 1000].map(stay), stays);
    }

    #[test]
    fn are_short() {
        let shown = [0, 1023, 1024, 1_048_575, 1_048_576, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 MiB", "16384.0 PiB"]);
        assert_eq!([0.0, 0.26, 59.9, 185.0].map(seconds), ["0.0 s", "0.3 s", "59.9 s", "3 min 5 s"]);
        assert_eq!(
            [-5, 0, 59, 60, 7200, 200_000].map(|s| age(Timestamp(0), Timestamp(s))),
            ["0 s", "0 s", "59 s", "1 min", "2 h", "2 d"]
        );
    }
}
