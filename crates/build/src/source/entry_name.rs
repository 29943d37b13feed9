//! Names in git trees that would mean something else to git or to another file system.

/// Returns whether some file system would take the name for `.git`: in any case, with the dots, blanks and streams that NTFS drops, under its short
/// name `git~1`, or with the invisible characters that HFS+ drops.
pub(crate) fn is_git_directory(name: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(name) {
        let visible: String = text.chars().filter(|&c| !is_ignored_by_hfs(c)).collect();
        if visible.eq_ignore_ascii_case(".git") {
            return true;
        }
    }
    // NTFS ends a name at a colon (a stream) and a path component at a backslash.
    let first = name.split(|&b| matches!(b, b':' | b'\\')).next().unwrap_or_default();
    let end = first.iter().rposition(|&b| !matches!(b, b' ' | b'.')).map_or(0, |last| last + 1);
    first[..end].eq_ignore_ascii_case(b".git") || first[..end].eq_ignore_ascii_case(b"git~1")
}

/// The code points that HFS+ ignores when it compares names (Apple's technote 1150).
fn is_ignored_by_hfs(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::is_git_directory;

    #[test]
    fn every_spelling_of_dot_git_is_known() {
        for name in [
            ".git",
            ".GIT",
            ".Git",
            ".git ",
            ".git.",
            ".git. . ",
            "git~1",
            "GIT~1",
            ".g\u{200c}it",
            "\u{feff}.git",
            ".git::$INDEX_ALLOCATION",
            ".git:x",
            ".git\\hooks",
            ".git\\",
        ] {
            assert!(is_git_directory(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn other_names_are_names() {
        for name in
            [".gitignore", ".gitmodules", ".github", "git", "git~2", ".gi", "x.git", ".git~1", "a\\.gitx", "...", " ", "git~10"]
        {
            assert!(!is_git_directory(name.as_bytes()), "{name:?}");
        }
        assert!(!is_git_directory(b".gi\xfft"));
    }
}
