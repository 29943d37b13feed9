//! What a release was built of: the packages of its lock file that the package that was built needs, each with a name that others understand.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use df_core::spec::{BuildTool, CargoBuild};
use df_core::{Manifest, Recipe, Release, Timestamp};

use crate::documents::licences::Licences;
use crate::fetch::{Lock, LockedPackage, LockedSource};

pub(crate) mod licences;
pub(crate) mod provenance;
pub(crate) mod sbom;

/// A release, and all that is known of how it came about. [`crate::provenance`] and [`crate::sbom`] say it to others.
#[derive(Debug, Clone, Copy)]
pub struct Made<'a> {
    /// What was made.
    pub release: &'a Release,
    /// The tree of its image.
    pub manifest: &'a Manifest,
    /// By what.
    pub recipe: &'a Recipe,
    /// The bytes of the commit's Cargo.lock.
    pub lock: Option<&'a [u8]>,
    /// The packages that were compiled, when that is known.
    pub compiled: Option<&'a Packages>,
    /// What is known of their licences.
    pub licences: &'a Licences,
    /// When it was built; nothing for a release whose image was there already.
    pub run: Option<Run>,
    /// The version of df.
    pub version: &'a str,
}

/// Packages that were compiled, by name and version.
pub type Packages = BTreeSet<(String, String)>;

/// One run of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// When it began.
    pub started: Timestamp,
    /// When it was done.
    pub finished: Timestamp,
}

/// The packages that something was built of.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// In order of their names.
    pub packages: Vec<Part>,
    /// The packages of the commit that were built, by their references.
    pub roots: Vec<String>,
    /// How it is known that it is these.
    pub scope: Scope,
}

/// How the packages were found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// No lock file says of any.
    #[default]
    None,
    /// There is a lock file, and it cannot be read.
    Unknown,
    /// All that the lock file has for the package that was built, also for other platforms and tests.
    Locked,
    /// Those that were compiled.
    Compiled,
}

/// One package.
#[derive(Debug)]
pub(crate) struct Part {
    pub name: String,
    pub version: String,
    /// The package as a package URL; unique among the parts.
    pub purl: String,
    /// SHA-256 of the packed package.
    pub sha256: Option<String>,
    /// The revision of the git repository that it is from.
    pub revision: Option<String>,
    /// Whether the commit itself holds it.
    pub is_local: bool,
    /// What it says of its licence: an SPDX expression, as a rule.
    pub licence: Option<String>,
    /// The packages that it needs, by their package URLs.
    pub needs: Vec<String>,
}

impl Parts {
    /// Finds the packages of a release.
    pub fn of(made: &Made<'_>) -> Self {
        let BuildTool::Cargo(wanted) = &made.recipe.build.tool else { return Self::default() };
        let Some(bytes) = made.lock else { return Self::default() };
        match Lock::parse(bytes) {
            Ok(lock) => Self::of_lock(&lock, wanted, made),
            Err(_) => Self { scope: Scope::Unknown, ..Self::default() },
        }
    }

    fn of_lock(lock: &Lock, wanted: &CargoBuild, made: &Made<'_>) -> Self {
        let counts = |i: &usize| made.compiled.is_none_or(|compiled| compiled.contains(&key(&lock.packages[*i])));
        let roots = roots(&lock.packages, wanted);
        let reached: Vec<usize> = reached(&lock.packages, &roots).into_iter().filter(counts).collect();
        let set: BTreeSet<usize> = reached.iter().copied().collect();
        let part = |&i: &usize| {
            let package = &lock.packages[i];
            let mut needs: Vec<String> =
                package.dependencies.iter().filter(|i| set.contains(i)).map(|&i| purl(&lock.packages[i])).collect();
            needs.sort_unstable();
            needs.dedup();
            Part {
                name: package.name.clone(),
                version: package.version.clone(),
                purl: purl(package),
                sha256: package.checksum.clone(),
                revision: match &package.source {
                    Some(LockedSource::Git { revision, .. }) => Some(revision.clone()),
                    _ => None,
                },
                is_local: package.source.is_none(),
                licence: made.licences.get(&key(package)).cloned(),
                needs,
            }
        };
        let mut packages: Vec<Part> = reached.iter().map(part).collect();
        packages.sort_by(|a, b| a.purl.cmp(&b.purl));
        // Two sources that differ only in what is no business of others.
        packages.dedup_by(|b, a| a.purl == b.purl);
        let scope = if made.compiled.is_some() { Scope::Compiled } else { Scope::Locked };
        let roots = roots.iter().filter(|i| set.contains(i)).map(|&i| purl(&lock.packages[i])).collect();
        Self { packages, roots, scope }
    }
}

fn key(package: &LockedPackage) -> (String, String) {
    (package.name.clone(), package.version.clone())
}

/// Returns the package that is built; if it is not named, those of the commit that no other needs.
fn roots(packages: &[LockedPackage], wanted: &CargoBuild) -> Vec<usize> {
    let local = || packages.iter().enumerate().filter(|(_, package)| package.source.is_none());
    let named: Vec<usize> =
        local().filter(|(_, package)| wanted.package.as_ref() == Some(&package.name)).map(|(i, _)| i).collect();
    if !named.is_empty() {
        return named;
    }
    let needed: BTreeSet<usize> = local().flat_map(|(_, package)| package.dependencies.iter().copied()).collect();
    let tops: Vec<usize> = local().map(|(i, _)| i).filter(|i| !needed.contains(i)).collect();
    if tops.is_empty() { local().map(|(i, _)| i).collect() } else { tops }
}

/// Returns what can be reached from the roots, themselves included.
fn reached(packages: &[LockedPackage], roots: &[usize]) -> BTreeSet<usize> {
    let mut reached: BTreeSet<usize> = roots.iter().copied().collect();
    let mut open: Vec<usize> = roots.to_vec();
    while let Some(i) = open.pop() {
        for &next in packages.get(i).map(|package| &package.dependencies[..]).unwrap_or_default() {
            if next < packages.len() && reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}

/// Returns a package's URL, as the package-url specification has it for cargo.
fn purl(package: &LockedPackage) -> String {
    let mut text = format!("pkg:cargo/{}@{}", encoded(&package.name), encoded(&package.version));
    let (qualifier, value) = match &package.source {
        // The registry that cargo uses unless told; its index has had this name wherever it was.
        Some(LockedSource::Registry(url)) if url.ends_with("/crates.io-index") => return text,
        Some(LockedSource::Registry(url) | LockedSource::Sparse(url)) => ("repository_url", public(url)),
        Some(LockedSource::Git { url, revision, .. }) => ("vcs_url", public(url).map(|url| format!("git+{url}@{revision}"))),
        None => return text,
    };
    if let Some(value) = value {
        write!(text, "?{qualifier}={}", encoded(&value)).expect("writing to a string does not fail");
    }
    text
}

/// Returns a URL without what is nobody's business: names and passwords, and places on this machine.
fn public(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "https" | "http" | "ssh" | "git"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = host.rsplit('@').next().unwrap_or(host);
    let path = path.split(['?', '#']).next().unwrap_or(path);
    Some(format!("{scheme}://{host}/{path}"))
}

/// Percent-encodes all but what a package URL may hold as it is.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            byte => write!(encoded, "%{byte:02X}").expect("writing to a string does not fail"),
        }
    }
    encoded
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use df_core::spec::{BuildSection, Relocatable, Sandbox};
    use df_core::{Digest, Entry, ImageId, Kind};

    /// The lock file of the examples.
    pub(crate) const LOCK: &str = r#"
version = 4

[[package]]
name = "greeter"
version = "0.3.0"
dependencies = ["itoa", "greeter-words", "patched"]

[[package]]
name = "greeter-words"
version = "0.3.0"
dependencies = ["ryu", "itoa"]

[[package]]
name = "itoa"
version = "1.0.15"
source = "registry+https://example.org/rust-lang/crates.io-index"
checksum = "4a5f13b858c8d314ee3e8f639011f7ccefe71f97f96e50151fb991f267928e2c"

[[package]]
name = "other-tool"
version = "0.1.0"
dependencies = ["unneeded"]

[[package]]
name = "patched"
version = "2.0.0+build.5"
source = "git+https://user:secret@git.example.org/patched.git?branch=main#0123456789abcdef0123456789abcdef01234567"

[[package]]
name = "ryu"
version = "1.0.20"
source = "sparse+https://packages.example.org/index/"
checksum = "28d3b2b1366ec20994f1fd18c3c594f05c5dd4bc44d8bb0c1c632c8d6829481f"

[[package]]
name = "unneeded"
version = "9.9.9"
source = "registry+https://example.org/rust-lang/crates.io-index"
checksum = "38d3b2b1366ec20994f1fd18c3c594f05c5dd4bc44d8bb0c1c632c8d6829481f"
"#;

    /// A release with all that is known of it.
    pub(crate) struct Example {
        pub release: Release,
        pub manifest: Manifest,
        pub recipe: Recipe,
        pub compiled: Packages,
        pub licences: Licences,
    }

    impl Example {
        pub fn new() -> Self {
            let file = |path: &str, executable, text: &[u8]| Entry {
                path: path.parse().expect("a path"),
                kind: Kind::File { executable, len: text.len() as u64, digest: Digest::of(text) },
            };
            let directory = |path: &str| Entry { path: path.parse().expect("a path"), kind: Kind::Directory };
            let entries = vec![
                directory("bin"),
                file("bin/greeter", true, b"program"),
                directory("share"),
                file("share/words", false, b"hello"),
            ];
            let manifest = Manifest::new(entries).expect("a tree");
            let build = BuildSection {
                tool: BuildTool::Cargo(CargoBuild {
                    package: Some("greeter".into()),
                    profile: "release".into(),
                    default_features: true,
                    ..CargoBuild::default()
                }),
                include: BTreeMap::new(),
                outside_links: vec![],
                relocatable: Relocatable::Warn,
                sandbox: Sandbox::Strict,
                fetch: vec![],
                is_static: false,
            };
            let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let recipe = Recipe {
                source: Digest::of(b"source"),
                parts: [("Cargo.lock".to_owned(), Digest::of(LOCK.as_bytes()))].into(),
                build,
                toolchain: pairs(&[("rustc", "1.95.0 (abc 2026-04-01) #0123456789ab"), ("cc", "gcc (Debian) 14.2.0")]),
                target: "x86_64-unknown-linux-gnu".into(),
                environment: pairs(&[("HOME", "/df/home"), ("TZ", "UTC")]),
            };
            let release = Release {
                format: 1,
                app: "greeter".parse().expect("a name"),
                commit: "89abcdef0123456789abcdef0123456789abcdef".parse().expect("a commit"),
                committed: Timestamp(1_763_701_234),
                recipe_key: recipe.key(),
                sandbox: Sandbox::Strict,
                image: ImageId(Digest::of(&manifest.encode())),
                image_len: manifest.total_len(),
                needs: vec![],
                run: None,
                verify: vec![],
            };
            let compiled = [
                ("greeter", "0.3.0", Some("MIT")),
                ("greeter-words", "0.3.0", None),
                ("itoa", "1.0.15", Some("MIT OR Apache-2.0")),
                ("patched", "2.0.0+build.5", Some("see the file")),
            ]
            .map(|(name, version, licence)| ((name.to_owned(), version.to_owned()), licence.map(str::to_owned)));
            let licences = compiled.iter().filter_map(|(key, licence)| Some((key.clone(), licence.clone()?))).collect();
            Self { release, manifest, recipe, compiled: compiled.into_iter().map(|(key, _)| key).collect(), licences }
        }

        pub fn made(&self) -> Made<'_> {
            Made {
                release: &self.release,
                manifest: &self.manifest,
                recipe: &self.recipe,
                lock: Some(LOCK.as_bytes()),
                compiled: Some(&self.compiled),
                licences: &self.licences,
                run: Some(Run { started: Timestamp(1_763_701_300), finished: Timestamp(1_763_701_360) }),
                version: "0.1.0",
            }
        }
    }

    fn purls(made: &Made<'_>) -> Vec<String> {
        Parts::of(made).packages.into_iter().map(|part| part.purl).collect()
    }

    #[test]
    fn packages_have_the_names_that_others_use_and_no_secrets() {
        let example = Example::new();
        let expected = [
            "pkg:cargo/greeter-words@0.3.0",
            "pkg:cargo/greeter@0.3.0",
            "pkg:cargo/itoa@1.0.15",
            "pkg:cargo/patched@2.0.0%2Bbuild.5?vcs_url=git%2Bhttps%3A%2F%2Fgit.example.org%2Fpatched.git%400123456789abcdef0123456789abcdef01234567",
            "pkg:cargo/ryu@1.0.20?repository_url=https%3A%2F%2Fpackages.example.org%2Findex%2F",
        ];
        assert_eq!(purls(&Made { compiled: None, ..example.made() }), expected, "what the package that is built needs");
        assert_eq!(purls(&example.made()), expected[..4], "what was compiled");
        assert_eq!(public("file:///home/ada/secret"), None);
        assert_eq!(public("ssh://git@example.org/x?y#z").as_deref(), Some("ssh://example.org/x"));
    }

    #[test]
    fn without_a_named_package_all_that_no_other_needs_are_meant() {
        let mut example = Example::new();
        let BuildTool::Cargo(cargo) = &mut example.recipe.build.tool else { unreachable!("the example is one of cargo") };
        cargo.package = None;
        let parts = Parts::of(&Made { compiled: None, ..example.made() });
        assert_eq!(parts.roots, ["pkg:cargo/greeter@0.3.0", "pkg:cargo/other-tool@0.1.0"]);
        assert_eq!(parts.packages.len(), 7);
    }

    #[test]
    fn a_lock_that_cannot_be_read_is_said_to_be_so() {
        let example = Example::new();
        assert_eq!(Parts::of(&Made { lock: Some(b"version = 99"), ..example.made() }).scope, Scope::Unknown);
        assert_eq!(Parts::of(&Made { lock: None, ..example.made() }).scope, Scope::None);
    }
}
