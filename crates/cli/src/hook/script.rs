//! The file that git calls: a few lines of POSIX shell.

use std::path::PathBuf;

use super::{HookError, Kind, quoted};

/// Every hook of ours holds this line; what lacks it is somebody else's.
const MARK: &str = "# Written by `df hook install`";

/// What a hook is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// The program that it calls.
    pub df: PathBuf,
    /// Where df.yaml is, from the directory that git calls the hook in.
    pub dir: PathBuf,
    /// The one branch that counts; without it the default branch of a bare repository, and every branch of a work tree.
    pub branch: Option<String>,
    /// Also deploy.
    pub deploy: bool,
}

impl Orders {
    /// Checks a branch's name as far as a hook needs it.
    ///
    /// # Errors
    /// [`HookError::Branch`]: git would not have such a branch.
    pub fn branch(text: &str) -> Result<String, HookError> {
        let text = text.strip_prefix("refs/heads/").unwrap_or(text);
        let is_bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
        let is_odd =
            text.is_empty() || text.starts_with(['-', '/', '.']) || text.ends_with(['/', '.']) || text.ends_with(".lock");
        if is_odd
            || text.len() > 255
            || text.contains("..")
            || text.contains("//")
            || text.contains("@{")
            || text.chars().any(is_bad)
        {
            return Err(HookError::Branch { text: text.to_owned() });
        }
        Ok(text.to_owned())
    }
}

/// Returns the text of a hook.
pub fn text(kind: Kind, orders: &Orders) -> Vec<u8> {
    let what = match kind {
        Kind::PostCommit => "Builds what was committed, in the background; what it says is in .df/hook.log.",
        Kind::PostReceive => "Builds what was pushed.",
    };
    let df = quoted(orders.df.as_os_str());
    let head = format!("#!/bin/sh\n{MARK}, which may write it anew.\n# {what} To stop that, remove this file.\n");
    let mut text = head.into_bytes();
    // What git says about this repository would lead the build's own git astray.
    text.extend_from_slice(b"unset $(git rev-parse --local-env-vars)\n[ -x ");
    text.extend_from_slice(&df);
    text.extend_from_slice(
        b" ] || { echo \"df is gone from where it was; 'df hook install' finds it again\" >&2; exit 0; }\nexec ",
    );
    text.extend_from_slice(call(kind, orders).as_bytes());
    text.push(b'\n');
    text
}

/// Returns the call of df that is the hook; what in it is no UTF-8 is shown as a question mark.
pub(super) fn call(kind: Kind, orders: &Orders) -> String {
    let shown = |word: &std::ffi::OsStr| String::from_utf8_lossy(&quoted(word)).into_owned();
    let mut words = vec![shown(orders.df.as_os_str())];
    if !orders.dir.as_os_str().is_empty() {
        words.extend(["-C".to_owned(), shown(orders.dir.as_os_str())]);
    }
    words.extend(["__hook".to_owned(), kind.name().to_owned()]);
    if let Some(branch) = &orders.branch {
        words.extend(["--branch".to_owned(), shown(branch.as_ref())]);
    }
    if orders.deploy {
        words.push("--deploy".to_owned());
    }
    words.join(" ")
}

pub(super) fn is_ours(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| line.starts_with(MARK.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> Orders {
        Orders { df: "/opt/it's/df".into(), dir: "app".into(), branch: Some("main".into()), deploy: true }
    }

    #[test]
    fn the_hook_is_one_call_and_is_known_again() {
        let text = String::from_utf8(text(Kind::PostReceive, &orders())).expect("UTF-8");
        assert!(text.ends_with("\nexec '/opt/it'\\''s/df' -C 'app' __hook post-receive --branch 'main' --deploy\n"), "{text}");
        assert!(is_ours(text.as_bytes()));
        assert!(!is_ours(b"#!/bin/sh\necho hook\n"));
    }

    #[test]
    fn branches_that_git_would_not_have_are_refused() {
        assert_eq!(Orders::branch("refs/heads/feature/x").expect("a branch"), "feature/x");
        for bad in ["", "-d", "a b", "a..b", "a\nb", "a/", "/a", "a~1", "@{-1}", "a.lock"] {
            assert!(Orders::branch(bad).is_err(), "{bad:?}");
        }
    }
}
