//! Cargo.lock, as a value: which packages, from where, by which checksum, and who needs whom.
//!
//! The file belongs to the commit, so it is hostile: it is bounded, and a name or version in it that could be anything but one part of a file's
//! name is refused, because packages are files here.

use std::collections::{HashMap, HashSet};

use df_core::text::{escape, shorten};
use serde::Deserialize;

/// Bytes of a lock file; ten thousand packages need three million.
const LEN: usize = 16 << 20;
/// Packages of a lock file.
const N_PACKAGES: usize = 50_000;
/// Bytes of a package's name, and of its version.
const WORD_LEN: usize = 128;
/// The versions of the format that are read: since cargo 1.53.
const VERSIONS: std::ops::RangeInclusive<u32> = 3..=4;

/// A lock file is not one that a build may rely on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum LockError {
    #[error("Cargo.lock is longer than {LEN} bytes, or holds more than {N_PACKAGES} packages")]
    TooLarge,
    #[error("Cargo.lock cannot be read: {said}")]
    Unreadable { said: String },
    #[error(
        "Cargo.lock is of format {found}, from before cargo 1.53; run cargo update --workspace and commit the Cargo.lock that it writes"
    )]
    TooOld { found: u32 },
    #[error("Cargo.lock is of format {found}; this version of df knows 3 and 4")]
    TooNew { found: u32 },
    #[error("Cargo.lock names a package {name} {version}, which is no name and version of a package")]
    Name { name: String, version: String },
    #[error("Cargo.lock names {package} twice")]
    Twice { package: String },
    #[error("Cargo.lock takes {package} from {source_text}, which is neither a registry nor a git repository")]
    Source { package: String, source_text: String },
    #[error(
        "Cargo.lock has no checksum for {package}, so nobody could tell whether it is the right one; run cargo update -p {package} and commit Cargo.lock"
    )]
    NoChecksum { package: String },
    #[error("Cargo.lock says of {package} what is no SHA-256: {found}")]
    Checksum { package: String, found: String },
    #[error("Cargo.lock takes {package} from git without a full revision; run cargo update -p {package} and commit Cargo.lock")]
    NoRevision { package: String },
    #[error("Cargo.lock says that {package} needs {needed}, of which it holds none or several")]
    Dependency { package: String, needed: String },
}

/// A parsed Cargo.lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    pub packages: Vec<LockedPackage>,
}

/// One package of a lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockedPackage {
    pub name: String,
    pub version: String,
    /// Where it comes from; `None` for what the commit itself holds.
    pub source: Option<LockedSource>,
    /// SHA-256 of the packed package, 64 lower-case hexadecimal digits: every package of a registry has one, no other.
    pub checksum: Option<String>,
    /// Positions in the list of packages.
    pub dependencies: Vec<usize>,
}

/// Where a package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LockedSource {
    /// A registry whose index is a git repository, by its URL; cargo may be told to read it by HTTP.
    Registry(String),
    /// A registry whose index is read by HTTP, by its URL without `sparse+`.
    Sparse(String),
    /// A git repository at a full revision; `reference` is `branch=b`, `tag=t` or `rev=r`, as the manifest had it.
    Git { url: String, reference: Option<String>, revision: String },
}

impl LockedPackage {
    /// Returns `name-version`, the name of the package's files.
    pub fn file_stem(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Returns whether the package comes from a registry.
    pub fn is_of_registry(&self) -> bool {
        matches!(self.source, Some(LockedSource::Registry(_) | LockedSource::Sparse(_)))
    }
}

impl Lock {
    /// Reads the bytes of a Cargo.lock.
    pub fn parse(bytes: &[u8]) -> Result<Self, LockError> {
        let unreadable = |said: &str| LockError::Unreadable { said: shorten(&escape(said.as_bytes()), 400) };
        if bytes.len() > LEN {
            return Err(LockError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8"))?;
        let raw: RawLock = toml::from_str(text).map_err(|error| unreadable(error.message()))?;
        match raw.version.unwrap_or(1) {
            found if found > *VERSIONS.end() => return Err(LockError::TooNew { found }),
            found if found < *VERSIONS.start() => return Err(LockError::TooOld { found }),
            _ => {}
        }
        if raw.package.len() > N_PACKAGES {
            return Err(LockError::TooLarge);
        }
        let sources = raw.package.iter().map(RawPackage::checked).collect::<Result<Vec<_>, _>>()?;
        let names = Names::of(&raw.package)?;
        let package = |(package, source): (&RawPackage, Option<LockedSource>)| {
            let dependencies = package.dependencies.iter().map(|needed| names.find(package, needed)).collect::<Result<_, _>>()?;
            let (name, version, checksum) = (package.name.clone(), package.version.clone(), package.checksum.clone());
            Ok(LockedPackage { name, version, source, checksum, dependencies })
        };
        Ok(Self { packages: raw.package.iter().zip(sources).map(package).collect::<Result<_, _>>()? })
    }

    /// Returns the packages that come from registries.
    pub fn of_registries(&self) -> impl Iterator<Item = &LockedPackage> {
        self.packages.iter().filter(|package| package.is_of_registry())
    }
}

#[derive(Deserialize)]
struct RawLock {
    version: Option<u32>,
    #[serde(default)]
    package: Vec<RawPackage>,
}

#[derive(Deserialize)]
struct RawPackage {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

impl RawPackage {
    /// Checks everything but the dependencies, and returns where the package comes from.
    fn checked(&self) -> Result<Option<LockedSource>, LockError> {
        if !is_name(&self.name) || !is_version(&self.version) {
            let shown = |text: &str| shorten(&escape(text.as_bytes()), 80);
            return Err(LockError::Name { name: shown(&self.name), version: shown(&self.version) });
        }
        let source = self.source.as_deref().map(|text| self.source_of(text)).transpose()?;
        let package = || self.shown();
        match (&source, &self.checksum) {
            (Some(LockedSource::Registry(_) | LockedSource::Sparse(_)), None) => {
                Err(LockError::NoChecksum { package: package() })
            }
            (_, Some(found)) if !is_hex(found, 64) => {
                Err(LockError::Checksum { package: package(), found: shorten(&escape(found.as_bytes()), 80) })
            }
            _ => Ok(source),
        }
    }

    fn source_of(&self, text: &str) -> Result<LockedSource, LockError> {
        let refused = || LockError::Source { package: self.shown(), source_text: shorten(&escape(text.as_bytes()), 200) };
        let plain = |c: char| c.is_ascii_graphic();
        let (kind, url) = text.split_once('+').filter(|_| text.chars().all(plain)).ok_or_else(refused)?;
        // A scheme of its own that a git program would take for a program to run (`ext::`) is no URL.
        let known = ["https://", "http://", "ssh://", "git://", "file://"].iter().any(|scheme| url.starts_with(scheme));
        match kind {
            "registry" if known => Ok(LockedSource::Registry(url.to_owned())),
            "sparse" if known => Ok(LockedSource::Sparse(url.to_owned())),
            "git" if known => {
                let (place, revision) = url.rsplit_once('#').unwrap_or((url, ""));
                if !is_hex(revision, 40) {
                    return Err(LockError::NoRevision { package: self.shown() });
                }
                let (url, reference) = place.split_once('?').map_or((place, None), |(url, asked)| (url, Some(asked.to_owned())));
                Ok(LockedSource::Git { url: url.to_owned(), reference, revision: revision.to_owned() })
            }
            _ => Err(refused()),
        }
    }

    fn shown(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The source as dependencies write it: without the revision.
    fn source_without_revision(&self) -> Option<&str> {
        self.source.as_deref().map(|source| source.split('#').next().unwrap_or(source))
    }
}

/// The packages by name, to find what a dependency means.
struct Names<'a> {
    packages: &'a [RawPackage],
    by_name: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Names<'a> {
    fn of(packages: &'a [RawPackage]) -> Result<Self, LockError> {
        let (mut by_name, mut seen): (HashMap<&str, Vec<usize>>, _) = (HashMap::new(), HashSet::new());
        for (i, package) in packages.iter().enumerate() {
            if !seen.insert((&package.name, &package.version, package.source_without_revision())) {
                return Err(LockError::Twice { package: package.shown() });
            }
            by_name.entry(&package.name).or_default().push(i);
        }
        Ok(Self { packages, by_name })
    }

    /// Finds `name`, `name version` or `name version (source)`: as much as is needed to mean one package.
    fn find(&self, package: &RawPackage, needed: &str) -> Result<usize, LockError> {
        let mut words = needed.splitn(3, ' ');
        let (name, version, source) = (words.next().unwrap_or_default(), words.next(), words.next());
        let source = source.map(|text| text.trim_start_matches('(').trim_end_matches(')').split('#').next().unwrap_or(text));
        let meant = |&&i: &&usize| {
            let other = &self.packages[i];
            version.is_none_or(|version| other.version == version)
                && source.is_none_or(|source| other.source_without_revision() == Some(source))
        };
        let found: Vec<&usize> = self.by_name.get(name).into_iter().flatten().filter(meant).collect();
        match found[..] {
            [only] => Ok(*only),
            _ => Err(LockError::Dependency { package: package.shown(), needed: shorten(&escape(needed.as_bytes()), 200) }),
        }
    }
}

/// Cargo lets names hold letters of all scripts.
fn is_name(text: &str) -> bool {
    (1..=WORD_LEN).contains(&text.len()) && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
}

fn is_version(text: &str) -> bool {
    text.len() <= WORD_LEN
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'))
}

fn is_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTRY: &str = "registry+https://example.org/index";
    const SUM: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";

    fn package(name: &str, version: &str, rest: &str) -> String {
        format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n{rest}\n")
    }

    fn registry(name: &str, version: &str) -> String {
        package(name, version, &format!("source = \"{REGISTRY}\"\nchecksum = \"{SUM}\""))
    }

    fn lock(packages: &[String]) -> Result<Lock, LockError> {
        Lock::parse(format!("version = 4\n\n{}", packages.concat()).as_bytes())
    }

    #[track_caller]
    fn refused(packages: &[String], expected: &str) {
        let said = lock(packages).expect_err(expected).to_string();
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn a_lock_is_read_with_what_each_package_needs() {
        let git = format!("git+https://example.org/c.git?branch=main#{REVISION}");
        let lock = lock(&[
            package("app", "0.1.0", "dependencies = [\"a 1.0.0\", \"a 2.0.0+x\", \"c\"]"),
            registry("a", "1.0.0"),
            registry("a", "2.0.0+x"),
            package("c", "0.1.0", &format!("source = \"{git}\"\ndependencies = [\"a 1.0.0 ({REGISTRY})\"]")),
        ])
        .expect("a good lock");
        let needs: Vec<&[usize]> = lock.packages.iter().map(|package| &package.dependencies[..]).collect();
        assert_eq!(needs, [&[1, 2, 3][..], &[], &[], &[1]]);
        assert_eq!(lock.packages[0].source, None);
        assert_eq!(lock.packages[2].file_stem(), "a-2.0.0+x");
        let expected = LockedSource::Git {
            url: "https://example.org/c.git".into(),
            reference: Some("branch=main".into()),
            revision: REVISION.into(),
        };
        assert_eq!(lock.packages[3].source, Some(expected));
        assert_eq!(lock.of_registries().count(), 2);
    }

    #[test]
    fn two_git_packages_of_one_name_are_told_by_their_source() {
        let git = |place: &str| package("c", "0.1.0", &format!("source = \"git+https://example.org/{place}#{REVISION}\""));
        let needs = "dependencies = [\"c 0.1.0 (git+https://example.org/y?rev=1)\"]";
        let lock = lock(&[package("app", "0.1.0", needs), git("x"), git("y?rev=1")]).expect("a good lock");
        assert_eq!(lock.packages[0].dependencies, [2]);
    }

    #[test]
    fn this_workspace_has_a_lock_that_is_read() {
        let lock = Lock::parse(include_bytes!("../../../../Cargo.lock")).expect("our own");
        assert!(lock.packages.len() > 100 && lock.of_registries().count() > 100);
        assert!(lock.packages.iter().any(|package| package.name == "df-build" && package.source.is_none()));
    }

    #[test]
    fn other_formats_are_refused_in_words() {
        for (head, expected) in [("", "of format 1"), ("version = 2", "of format 2"), ("version = 5", "df knows 3 and 4")] {
            let said = Lock::parse(format!("{head}\n{}", registry("a", "1.0.0")).as_bytes()).expect_err(head).to_string();
            assert!(said.contains(expected), "{said}");
        }
        for bytes in [&b"\xff"[..], b"version = ", b"version = 4\npackage = 3", b"version = 4\n[[package]]\nname = 3"] {
            assert!(matches!(Lock::parse(bytes), Err(LockError::Unreadable { .. })), "{}", escape(bytes));
        }
        assert_eq!(Lock::parse(&vec![b'\n'; LEN + 1]), Err(LockError::TooLarge));
    }

    #[test]
    fn names_that_are_no_names_of_files_are_refused() {
        for name in ["..", "", ".", "a/b", "a.b", "a b", "../a", "a\\u0000", "\\u001b[2J", &"a".repeat(129)] {
            refused(&[registry(name, "1.0.0")], "no name and version");
        }
        for version in ["", "..", "1/..", "1.0 ", "v1", "1.0.0/../..", "1\\n"] {
            refused(&[registry("a", version)], "no name and version");
        }
    }

    #[test]
    fn what_nobody_could_check_is_refused() {
        let of = |source: &str, checksum: &str| package("a", "1.0.0", &format!("source = \"{source}\"\n{checksum}"));
        refused(&[of(REGISTRY, "")], "no checksum for a 1.0.0");
        refused(&[of("sparse+https://example.org/", "")], "no checksum for a 1.0.0");
        refused(&[of(REGISTRY, "checksum = \"abc\"")], "no SHA-256: abc");
        refused(&[of(REGISTRY, &format!("checksum = \"{}\"", SUM.to_uppercase()))], "no SHA-256");
        let git = "git+https://example.org/c";
        for source in [git.to_owned(), format!("{git}#main"), format!("{git}#0123456"), format!("{git}?rev={REVISION}")] {
            refused(&[of(&source, "")], "without a full revision");
        }
        let refused_sources =
            ["path+file:///x", "git+ext::sh -c x", "registry+ext::sh", "git+git@example.org:x", "https://x", "git+-u./x"];
        for source in refused_sources {
            refused(&[of(source, &format!("checksum = \"{SUM}\""))], "neither a registry nor a git repository");
        }
    }

    #[test]
    fn packages_that_stand_twice_or_are_missing_are_refused() {
        refused(&[registry("a", "1.0.0"), registry("a", "1.0.0")], "names a 1.0.0 twice");
        let needs = |needed: &str| package("app", "0.1.0", &format!("dependencies = [\"{needed}\"]"));
        for needed in ["b", "a", "a 3.0.0", "a 1.0.0 (registry+https://other.example.org)", ""] {
            refused(&[needs(needed), registry("a", "1.0.0"), registry("a", "2.0.0")], "none or several");
        }
    }
}
