//! Which keys there are: the one table that the parser obeys and the JSON schema is compared with.

use super::error::Hint;
use crate::name;

/// A section and its keys. `*` in a path is a name that the user chooses, `[]` an element of a list.
pub(crate) const SECTIONS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "app",
            "build",
            "run",
            "verify",
            "nodes",
            "backend",
            "image",
            "public_keys",
            "trust",
            "cache",
            "rollout",
            "placement",
            "keep",
            "paths",
        ],
    ),
    ("build", &["cargo", "command", "output", "include", "fetch", "static", "outside_links", "relocatable", "sandbox"]),
    ("build.fetch[]", &["url", "blake3", "sha256", "to"]),
    ("build.cargo", &["package", "bins", "examples", "profile", "features", "default_features"]),
    (
        "run",
        &[
            "exec",
            "args",
            "env",
            "env_file",
            "user",
            "limits",
            "ports",
            "handoff",
            "connections",
            "exclusive",
            "ready",
            "drain",
            "prove",
            "require_zero_loss",
            "data_epoch",
        ],
    ),
    ("run.limits", &["memory", "nofile", "pids"]),
    ("run.ports.*", &["listen", "handoff", "connections", "mode"]),
    ("verify[]", &["http", "tcp", "command", "target"]),
    ("verify[].http", &["port", "path", "status"]),
    ("verify[].tcp", &["port"]),
    ("trust", &["threshold", "keys", "newest"]),
    ("cache", &["local", "remote", "region", "endpoint"]),
    ("rollout", &["parallel", "canary", "max_failures", "soak", "confirm", "confirm_above"]),
    ("keep", &["count", "older"]),
    ("paths", &["app", "data", "tmp"]),
];

/// Returns the keys of a section of the table.
pub(super) fn of(section: &str) -> &'static [&'static str] {
    SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys).expect("sections are opened by names of the table")
}

/// Returns what may have been meant by a key that the section does not have.
pub(super) fn hint(section: &str, key: &str) -> Hint {
    if let Some(nearest) = nearest(of(section), key) {
        return Hint::Nearest(nearest);
    }
    let elsewhere = SECTIONS.iter().find(|(name, keys)| !name.is_empty() && keys.contains(&key));
    match elsewhere {
        Some((name, _)) => Hint::Elsewhere(format!("{name}.{key}")),
        None if of("").contains(&key) => Hint::Elsewhere(format!("{key}, at the top")),
        None => Hint::All(of(section).to_vec()),
    }
}

/// Returns the key that is written almost so: more of it is right than wrong.
fn nearest(keys: &[&'static str], key: &str) -> Option<&'static str> {
    // Dashes, case and the plural are the usual slips, and cost nothing; longer words than any key need no look.
    let plain = |word: &str| word.to_ascii_lowercase().replace('-', "_");
    if key.len() > 32 {
        return None;
    }
    let edits = |known: &str| name::edits(plain(known).as_bytes(), plain(key).as_bytes());
    keys.iter()
        .map(|known| (edits(known), *known))
        .filter(|(n_edits, known)| *n_edits <= 3 && 2 * n_edits < known.len().max(3))
        .min_by_key(|(n_edits, _)| *n_edits)
        .map(|(_, known)| known)
}
