//! Names that are safe: paths inside an image, applications, nodes, commits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{limits, text};

/// A text or path cannot be a name of this kind; the message names it, escaped, and says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} \"{name}\" {why}")]
pub struct NameError {
    kind: &'static str,
    name: String,
    why: &'static str,
}

impl NameError {
    fn new(kind: &'static str, name: &[u8], why: &'static str) -> Self {
        Self { kind, name: text::shorten(&text::escape(name), 80), why }
    }
}

/// A path inside an image: relative, `/` between components, any bytes but NUL, no empty, `.` or `..` component.
///
/// Bounds: 1..=4095 bytes (a path of 4096 does not fit a system call together with its NUL), components of 1..=255. Ordered by its bytes, as manifests are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Box<[u8]>);

impl TreePath {
    /// Checks a path.
    ///
    /// # Errors
    /// Says which rule the path breaks.
    pub fn new(path: &[u8]) -> Result<Self, NameError> {
        let refuse = |why| Err(NameError::new("path", path, why));
        if path.is_empty() {
            return refuse("is empty");
        }
        if path.len() >= limits::PATH_LEN {
            return refuse("is longer than 4095 bytes");
        }
        if path.contains(&0) {
            return refuse("holds a NUL byte");
        }
        for component in path.split(|&b| b == b'/') {
            match component {
                b"" => return refuse("has an empty component, or begins or ends with a slash"),
                b"." | b".." => return refuse("has a component . or .."),
                c if c.len() > limits::COMPONENT_LEN => return refuse("has a component of more than 255 bytes"),
                _ => {}
            }
        }
        Ok(Self(path.into()))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path as the operating system takes it.
    #[cfg(unix)]
    pub fn as_path(&self) -> &std::path::Path {
        use std::os::unix::ffi::OsStrExt as _;
        std::path::Path::new(std::ffi::OsStr::from_bytes(&self.0))
    }

    /// Returns the path of the directory that holds this one; `None` at the top of the tree.
    pub fn parent(&self) -> Option<&[u8]> {
        self.0.iter().rposition(|&b| b == b'/').map(|slash| &self.0[..slash])
    }

    /// Returns the last component.
    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|&b| b == b'/').next().expect("split yields at least one part")
    }

    /// Returns how many components there are.
    pub fn depth(&self) -> usize {
        1 + self.0.iter().filter(|&&b| b == b'/').count()
    }
}

impl fmt::Display for TreePath {
    /// Writes the path escaped: safe for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::escape(&self.0))
    }
}

impl fmt::Debug for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TreePath {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text.as_bytes())
    }
}

/// Checks a text that a person gave as a path inside an image or commit: a [`TreePath`] without control or invisible characters.
fn checked_text(kind: &'static str, text: &str) -> Result<(), NameError> {
    if text.chars().any(|c| c.is_control() || text::is_invisible(c)) {
        return Err(NameError::new(kind, text.as_bytes(), "holds a control or an invisible character"));
    }
    Ok(())
}

fn checked_word(kind: &'static str, text: &str, max: usize, extra: &[u8]) -> Result<(), NameError> {
    let refuse = |why| Err(NameError::new(kind, text.as_bytes(), why));
    let Some(first) = text.bytes().next() else { return refuse("is empty") };
    if text.len() > max {
        return refuse("is too long");
    }
    if !first.is_ascii_alphanumeric() {
        return refuse("must begin with a letter or a digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b)) {
        return refuse("holds a character that is not allowed");
    }
    Ok(())
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks a name.
            ///
            /// # Errors
            /// Says which rule the name breaks.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_name! {
    /// Names an application: 1..=63 lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or a digit. It is a directory on nodes.
    AppName, |text| {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NameError::new("application name", text.as_bytes(), "must be lower case"));
        }
        checked_word("application name", text, 63, b"-_.")
    }
}
text_name! {
    /// Names a node for people: 1..=63 letters, digits, `-`, `_` and `.`, beginning with a letter or a digit.
    NodeName, |text| checked_word("node name", text, 63, b"-_.")
}
text_name! {
    /// Names a port or one of several executables of an application: 1..=31 lower-case letters, digits, `-` and `_`.
    Label, |text| {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(NameError::new("name", text.as_bytes(), "must be lower case"));
        }
        checked_word("name", text, 31, b"-_")
    }
}
text_name! {
    /// Names a git commit: 40 lower-case hexadecimal digits, or 64 in a SHA-256 repository.
    CommitId, |text| {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex && matches!(text.len(), 40 | 64) { Ok(()) } else { Err(NameError::new("commit", text.as_bytes(), "is not a full commit id")) }
    }
}
text_name! {
    /// A path inside an image or a commit as a person writes it in df.yaml: a [`TreePath`] of printable UTF-8.
    PathText, |text| {
        checked_text("path", text)?;
        TreePath::new(text.as_bytes()).map(drop)
    }
}

impl CommitId {
    /// Returns the first 12 hexadecimal digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl PathText {
    /// Returns the path.
    pub fn path(&self) -> TreePath {
        TreePath::new(self.0.as_bytes()).expect("checked when it was made")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_tree_or_do_not_fit_are_refused() {
        let long = "a".repeat(256);
        let deep = "a/".repeat(2048);
        for path in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "a\0b", &long, &deep] {
            assert!(TreePath::new(path.as_bytes()).is_err(), "{path:?}");
        }
    }

    #[test]
    fn any_other_bytes_are_a_path() {
        for path in [&b"a"[..], b"a/b", b"...", b"-rf", b"\xff\n\x1b", b"a b", "é".as_bytes(), &[b'a'; 255]] {
            assert_eq!(TreePath::new(path).expect("a good path").as_bytes(), path);
        }
    }

    #[test]
    fn names_are_words() {
        for name in ["", "-x", ".x", "A", "a b", "a/b", "é", "..", &"a".repeat(64)] {
            assert!(AppName::new(name).is_err(), "{name:?}");
        }
        for name in ["a", "greeter", "0", "my-app_1.2"] {
            assert!(AppName::new(name).is_ok(), "{name:?}");
        }
        assert!(NodeName::new("Web-1").is_ok());
        assert!(PathText::new("a\u{202e}b").is_err());
        assert!(CommitId::new("HEAD").is_err());
    }

    #[test]
    fn errors_show_the_name_escaped() {
        let error = AppName::new("\x1b[2j").expect_err("an escape is no name");
        assert_eq!(error.to_string(), r#"application name "\u{1b}[2j" must begin with a letter or a digit"#);
    }

    #[test]
    fn a_path_knows_its_parts() {
        let path = TreePath::new(b"a/b/c").expect("a good path");
        assert_eq!((path.parent(), path.file_name(), path.depth()), (Some(&b"a/b"[..]), &b"c"[..], 3));
    }
}
