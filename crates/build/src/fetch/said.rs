//! What cargo says when it could not fetch, and what that means for a person.

use df_core::text::shorten;

/// Why cargo could not fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// The lock would change.
    StaleLock,
    /// A package is not the one of the lock.
    Checksum { package: String },
    /// A registry or repository wants to know who asks.
    NoCredentials { place: String },
    /// A machine cannot be reached.
    NoNetwork { host: String },
    /// A revision or a package is not where the lock says.
    Gone { what: String },
    /// Anything else.
    Else,
}

/// Reads the last lines of cargo's log.
pub(crate) fn meaning(lines: &[String]) -> Said {
    let find = |needles: &[&str]| lines.iter().find(|line| needles.iter().any(|needle| line.contains(needle)));
    if find(&["--locked was passed"]).is_some() {
        return Said::StaleLock;
    }
    if let Some(line) = find(&["failed to verify the checksum of", "checksum for `"]) {
        return Said::Checksum { package: between_ticks(line) };
    }
    let credentials = [
        "authenticated registries require",
        "no token found for",
        "token rejected for",
        "failed to authenticate",
        "authentication required",
        "no authentication methods succeeded",
        "got 401",
        "got 403",
        "HTTP 401",
        "HTTP 403",
    ];
    if let Some(line) = find(&credentials) {
        let place = between_ticks(line);
        return Said::NoCredentials { place: if place.is_empty() { address_in(lines) } else { place } };
    }
    let network = [
        "Could not resolve host",
        "Couldn't resolve host",
        "failed to resolve address",
        "Failed to connect",
        "Couldn't connect",
        "failed to connect",
        "Timeout was reached",
        "Operation too slow",
        "download of config.json failed",
        "Network is unreachable",
    ];
    if let Some(line) = find(&network) {
        return Said::NoNetwork { host: host_in(line).unwrap_or_else(|| address_in(lines)) };
    }
    let gone =
        ["got 404", "HTTP 404", "not found in", "revspec", "object not found", "failed to find branch", "failed to load source"];
    match find(&gone) {
        Some(line) => Said::Gone { what: shorten(line.trim(), 300) },
        None => Said::Else,
    }
}

/// Returns what stands between the first pair of backticks, without the registry that cargo adds in brackets.
fn between_ticks(line: &str) -> String {
    let inner = line.split('`').nth(1).unwrap_or_default();
    shorten(inner.split(" (").next().unwrap_or(inner), 200)
}

/// Returns the name of a machine that a line of the transfer library speaks of.
fn host_in(line: &str) -> Option<String> {
    let after = ["resolve host: ", "resolve address for ", "ailed to connect to "]
        .iter()
        .find_map(|before| line.split_once(before).map(|(_, after)| after))?;
    let host: String =
        after.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']')).collect();
    Some(shorten(host.trim_end_matches([':', '.']), 200)).filter(|host| !host.is_empty())
}

/// Returns the first machine of an address that the lines name.
fn address_in(lines: &[String]) -> String {
    let address = lines.iter().find_map(|line| line.split_once("://").map(|(_, after)| after));
    let host = address.and_then(|after| after.split(['/', '`', ' ', '?', ')', '\'']).next()).unwrap_or("a registry");
    // What stands before an @ may be a password.
    shorten(host.rsplit('@').next().unwrap_or(host), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &Said) {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        assert_eq!(meaning(&lines), *expected, "{text}");
    }

    #[test]
    fn what_cargo_says_is_understood() {
        check(
            "error: cannot update the lock file /x/Cargo.lock because --locked was passed to prevent this\nhelp: ...",
            &Said::StaleLock,
        );
        check(
            "error: failed to download replaced source\nCaused by:\n  failed to verify the checksum of `a v1.0.0 (registry `own`)`",
            &Said::Checksum { package: "a v1.0.0".into() },
        );
        check(
            "error: failed to download from `https://user:secret@example.org/a`\nCaused by:\n  failed to get successful HTTP response, got 401",
            &Said::NoCredentials { place: "example.org".into() },
        );
        check(
            "error: failed to get `a`\n  no token found for `own`, please run `cargo login --registry own`",
            &Said::NoCredentials { place: "own".into() },
        );
        check(
            "warning: spurious network error (3 tries): [6] Could not resolve hostname (Could not resolve host: index.example.org)",
            &Said::NoNetwork { host: "index.example.org".into() },
        );
        check(
            "  [7] Could not connect to server (Failed to connect to 127.0.0.1 port 9 after 0 ms: Couldn't connect to server)",
            &Said::NoNetwork { host: "127.0.0.1".into() },
        );
        check("error: the manifest is odd", &Said::Else);
    }
}
