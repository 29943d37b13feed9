//! Which file an IO error is about: errors of this crate name the path and what was being done, escaped.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use df_core::text;

/// An IO error, what was being done, and to what.
#[derive(Debug)]
struct Placed {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.doing, text::escape(self.path.as_os_str().as_bytes()), self.source)
    }
}

impl std::error::Error for Placed {}

/// Adds to an error what was being done and to which path; its kind stays.
pub(crate) trait At<T> {
    /// As in "`open /a/b: no such file`": the verb, then the path.
    fn at(self, doing: &'static str, path: &Path) -> io::Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, doing: &'static str, path: &Path) -> io::Result<T> {
        self.map_err(|source| {
            let source = source.into();
            io::Error::new(source.kind(), Placed { doing, path: path.to_owned(), source })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_path_escaped_and_the_kind_stays() {
        let error = Err::<(), _>(io::Error::from(io::ErrorKind::NotFound)).at("open", Path::new("/a\x1b")).expect_err("an error");
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::NotFound, "open /a\\u{1b}: entity not found".to_owned()));
    }
}
