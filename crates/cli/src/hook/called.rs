//! What a hook was called about: pure reading of what git says.

/// One branch that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Called {
    /// Its name, without `refs/heads/`.
    pub branch: String,
    /// The commit it is at now; `None` when it was removed.
    pub commit: Option<String>,
}

/// Reads the lines that git gives to `post-receive`: `OLD NEW REF`. Tags and other refs are left out, and so are lines that are no such lines.
pub fn pushed(lines: &str) -> Vec<Called> {
    let read = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (_, new, name) = (words.next()?, words.next()?, words.next()?);
        let branch = name.strip_prefix("refs/heads/")?.to_owned();
        Some(Called { branch, commit: commit(new) })
    };
    lines.lines().filter_map(read).collect()
}

/// Reads a commit's id; zeros mean none.
pub fn commit(text: &str) -> Option<String> {
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_id && text.bytes().any(|byte| byte != b'0')).then(|| text.to_owned())
}

/// Returns the commit to build: where the branch that counts is now.
pub fn wanted<'a>(called: &'a [Called], branch: &str) -> Option<&'a str> {
    called.iter().rev().find(|one| one.branch == branch).and_then(|one| one.commit.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_branch_that_counts_is_found_among_what_was_pushed() {
        let (old, new, zero) = ("1".repeat(40), "2".repeat(40), "0".repeat(40));
        let lines = format!(
            "{old} {new} refs/heads/main\n{zero} {new} refs/tags/v1\n{old} {zero} refs/heads/gone\nnonsense\n{old} x refs/heads/odd\n"
        );
        let called = pushed(&lines);
        assert_eq!(called.len(), 3, "{called:?}");
        assert_eq!(wanted(&called, "main"), Some(new.as_str()));
        for branch in ["gone", "odd", "v1", "other"] {
            assert_eq!(wanted(&called, branch), None, "{branch}");
        }
    }
}
