//! What cargo says on its output, line by line.

use std::collections::HashMap;
use std::path::PathBuf;

use cargo_metadata::{Artifact, Message, PackageId, Target};

use super::CargoError;
use super::choose::Programs;
use crate::documents::Packages;
use crate::log::Log;

/// Makes cargo say what it did in a form for programs, and all else for people on stderr.
pub(super) const SAY_JSON: &str = "--message-format=json-render-diagnostics";

/// Bytes of what `cargo metadata` says, and of one message of `cargo build`.
pub(super) const MESSAGE_LEN: usize = 256 << 20;

/// Takes down what was made.
#[derive(Default)]
pub(super) struct Listener {
    lines: Lines,
    executables: Vec<(PackageId, Target, PathBuf)>,
    packages: Packages,
}

impl Listener {
    /// Hears some bytes of what cargo says; tells of each thing that was made.
    pub fn hear(&mut self, bytes: &[u8], log: &mut Log, made: &mut dyn FnMut(&Artifact)) {
        for line in self.lines.take(bytes) {
            let Ok(Message::CompilerArtifact(artifact)) = serde_json::from_slice::<Message>(&line) else {
                // Everything else that is a message is rendered on stderr too; what is no message is what some program printed.
                if !line.starts_with(b"{") {
                    log.add(&[&line[..], b"\n"].concat());
                }
                continue;
            };
            made(&artifact);
            self.packages.extend(package_of(&artifact.package_id.repr));
            if let Some(executable) = artifact.executable {
                self.executables.push((artifact.package_id, artifact.target, executable.into_std_path_buf()));
            }
        }
    }

    /// Returns the packages of which something was made, or was there already.
    pub fn packages(&self) -> &Packages {
        &self.packages
    }

    /// Returns the programs that were wanted of a package, and their files.
    pub fn programs(self, package: &PackageId, wanted: &Programs) -> Result<Vec<(String, PathBuf)>, CargoError> {
        let is_wanted = |target: &Target| {
            (target.is_bin() && wanted.bins.contains(&target.name))
                || (target.is_example() && wanted.examples.contains(&target.name))
        };
        let made = self.executables.into_iter().filter(|(id, target, _)| id == package && is_wanted(target));
        let mut made: HashMap<String, PathBuf> = made.map(|(_, target, file)| (target.name, file)).collect();
        let take =
            |name: &String| made.remove(name).map(|file| (name.clone(), file)).ok_or(CargoError::NotBuilt { name: name.clone() });
        wanted.bins.iter().chain(&wanted.examples).map(take).collect()
    }
}

/// Reads name and version in the id of a package: behind `#`, the name only where the address does not end with it.
fn package_of(id: &str) -> Option<(String, String)> {
    let (address, fragment) = id.rsplit_once('#')?;
    let (name, version) = match fragment.split_once('@') {
        Some(both) => both,
        None => (address.rsplit('/').next()?.split('?').next()?, fragment),
    };
    Some((name.to_owned(), version.to_owned()))
}

/// Cuts a stream into lines; a line beyond the bound is dropped.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = vec![];
        for part in bytes.split_inclusive(|&b| b == b'\n') {
            if self.0.len() + part.len() <= MESSAGE_LEN {
                self.0.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.0);
                line.pop();
                lines.push(line);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_read_from_their_ids() {
        let cases = [
            ("registry+https://example.org/index#itoa@1.0.15", Some(("itoa", "1.0.15"))),
            ("path+file:///df/src/greeter#0.1.0", Some(("greeter", "0.1.0"))),
            ("path+file:///df/src#greeter@0.1.0", Some(("greeter", "0.1.0"))),
            ("git+https://example.org/a/words?rev=1f#0.2.0+x", Some(("words", "0.2.0+x"))),
            ("nonsense", None),
        ];
        for (id, expected) in cases {
            assert_eq!(package_of(id), expected.map(|(name, version)| (name.to_owned(), version.to_owned())), "{id}");
        }
    }

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let mut lines = Lines::default();
        assert!(lines.take(b"ab").is_empty());
        assert_eq!(lines.take(b"c\nd\n\ne"), [b"abc".to_vec(), b"d".to_vec(), vec![]]);
    }
}
