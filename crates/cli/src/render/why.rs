//! Why something was built, in one line.

use df_core::text::{escape, shorten};

/// Packages that are named; of the others it is said how many they are.
const N_PACKAGES: usize = 3;
/// What is said of a lock file begins so.
const LOCK: &str = "Cargo.lock: ";

/// Returns the line for a list of changes: `Cargo.lock: serde 1.0.228 -> 1.0.229, syn 2.0.1 is new; 3 source files`.
pub fn line(why: &[String]) -> String {
    let packages: Vec<&str> = why.iter().filter_map(|change| change.strip_prefix(LOCK)).collect();
    let mut parts: Vec<String> = vec![];
    for change in why {
        match change.strip_prefix(LOCK) {
            None => parts.push(change.clone()),
            Some(package) if packages.first() == Some(&package) => parts.push(format!("{LOCK}{}", some_of(&packages))),
            Some(_) => {}
        }
    }
    shorten(&escape(parts.join("; ").as_bytes()), 400)
}

fn some_of(packages: &[&str]) -> String {
    let named = packages.iter().take(N_PACKAGES).copied().collect::<Vec<_>>().join(", ");
    match packages.len().saturating_sub(N_PACKAGES) {
        0 => named,
        n => format!("{named} and {n} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(why: &[&str], expected: &str) {
        let why: Vec<String> = why.iter().map(|change| (*change).to_owned()).collect();
        assert_eq!(line(&why), expected);
    }

    #[test]
    fn packages_are_named_up_to_three() {
        check(
            &["Cargo.lock: serde 1.0.228 -> 1.0.229", "3 source files"],
            "Cargo.lock: serde 1.0.228 -> 1.0.229; 3 source files",
        );
        check(&["rustc 1.94.0 -> 1.95.0"], "rustc 1.94.0 -> 1.95.0");
        let lock = ["Cargo.lock: a 1 -> 2", "Cargo.lock: b 1 is new", "Cargo.lock: c 1 is gone"];
        check(&lock, "Cargo.lock: a 1 -> 2, b 1 is new, c 1 is gone");
        let more =
            [&["Cargo.toml changed"][..], &lock, &["Cargo.lock: d 1 -> 2", "Cargo.lock: e 1 -> 2", "1 source file"]].concat();
        check(&more, "Cargo.toml changed; Cargo.lock: a 1 -> 2, b 1 is new, c 1 is gone and 2 more; 1 source file");
        check(&["a\x1b[2J"], "a\\u{1b}[2J");
    }
}
