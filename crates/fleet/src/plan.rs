//! What a copy to one node takes: decided from its survey, before anything moves.

use std::collections::VecDeque;

use df_core::release::ProgramNeeds;
use df_core::spec::Probe;
use df_core::text::escape;
use df_core::{AppName, ImageId, Kind, Manifest, Release};
use df_wire::message::{AppState, Survey};

pub use crate::choice::Way;
use crate::program::ARCH;

/// Where nodes look for the programs that load programs.
const LOADERS: [&str; 4] = ["/lib", "/lib64", "/lib32", "/libx32"];
/// Links followed to a program, as the kernel does.
const N_LINKS: u32 = 40;

/// A release cannot run on a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Unfit {
    #[error("it is a machine of type {0}; this df builds for {ARCH}")]
    Node(String),
    #[error("{path} is a program for {needed}, and the machine is {found}")]
    Machine { path: String, needed: String, found: String },
    #[error("{path} is loaded by {needed}, which is not there")]
    Interpreter { path: String, needed: String },
    #[error("{path} needs version {needed} of the GNU C library, and {found} is there")]
    Libc { path: String, needed: String, found: String },
}

impl Unfit {
    /// Returns what a person can do.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Node(_) => "df rm NODE, or set DF_NODE_PROGRAMS",
            Self::Machine { .. } => "df rm NODE, or build for that machine",
            Self::Interpreter { .. } => "build.static: true in df.yaml",
            Self::Libc { .. } => "build.static: true in df.yaml, or build on a system no newer than the node's",
        }
    }
}

/// Says whether a node can hold and run what is built here at all.
///
/// # Errors
/// Its machine is another.
pub fn fits(survey: &Survey) -> Result<(), Unfit> {
    if survey.arch == ARCH { Ok(()) } else { Err(Unfit::Node(escape(survey.arch.as_bytes()))) }
}

/// Says whether a node can run the programs that a release starts: `run.exec` and the commands of `verify`. Other programs of its image do not matter.
///
/// What cannot be told is no reason to refuse: a script, a program that the release does not list, a loader where no system has one, a node that says
/// nothing of itself. The version on trial shows it, beside the one that serves.
///
/// # Errors
/// Says what the first such program needs and the node has not.
pub fn runs(survey: &Survey, release: &Release, manifest: &Manifest) -> Result<(), Unfit> {
    fits(survey)?;
    started(release, manifest).into_iter().try_for_each(|needs| has(survey, needs))
}

/// Returns what the programs need that the release starts, as far as it lists them; links are followed inside of the image.
fn started<'a>(release: &'a Release, manifest: &Manifest) -> Vec<&'a ProgramNeeds> {
    let commands = release.verify.iter().filter_map(|probe| match probe {
        Probe::Command { argv } => argv.first().map(String::as_str),
        Probe::Http { .. } | Probe::Tcp { .. } => None,
    });
    let paths = release.run.iter().map(|run| run.exec.as_str()).chain(commands);
    let files = paths.filter_map(|path| resolve(manifest, path.as_bytes()));
    files.filter_map(|file| release.needs.iter().find(|needs| needs.path.as_str().as_bytes() == file)).collect()
}

/// Returns the path of the file that a path leads to; `None` when it leads out of the image or nowhere.
fn resolve(manifest: &Manifest, path: &[u8]) -> Option<Vec<u8>> {
    let components = |path: &[u8]| path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut open: VecDeque<Vec<u8>> = components(path).into();
    let (mut at, mut n_links): (Vec<Vec<u8>>, u32) = (vec![], 0);
    while let Some(component) = open.pop_front() {
        match &component[..] {
            b"" | b"." => continue,
            b".." => {
                at.pop()?;
                continue;
            }
            _ => at.push(component),
        }
        match &manifest.get(&at.join(&b'/'))?.kind {
            Kind::Symlink { target } if !target.starts_with(b"/") && n_links < N_LINKS => {
                n_links += 1;
                at.pop();
                components(target).into_iter().rev().for_each(|component| open.push_front(component));
            }
            Kind::Symlink { .. } => return None,
            Kind::Directory | Kind::File { .. } => {}
        }
    }
    Some(at.join(&b'/'))
}

fn has(survey: &Survey, needs: &ProgramNeeds) -> Result<(), Unfit> {
    let (path, shown) = (needs.path.to_string(), |text: &str| escape(text.as_bytes()));
    if !(needs.machine == survey.arch || needs.machine == "i686" && survey.arch == "x86_64") {
        return Err(Unfit::Machine { path, needed: shown(&needs.machine), found: shown(&survey.arch) });
    }
    let Some(interpreter) = &needs.interpreter else { return Ok(()) };
    if !interpreter.rsplit_once('/').is_some_and(|(dir, _)| LOADERS.contains(&dir)) {
        // One that lies elsewhere brings a C library of its own.
        return Ok(());
    }
    if survey.interpreters.as_ref().is_some_and(|there| !there.contains(interpreter)) {
        return Err(Unfit::Interpreter { path, needed: shown(interpreter) });
    }
    match (&needs.libc, &survey.libc) {
        (Some(needed), Some(found)) if is_newer(needed, found) => {
            Err(Unfit::Libc { path, needed: shown(needed), found: shown(found) })
        }
        _ => Ok(()),
    }
}

/// Compares versions by their numbers; what is no version is never newer.
fn is_newer(version: &str, than: &str) -> bool {
    let numbers = |text: &str| text.split('.').map(|part| part.parse::<u32>().ok()).collect::<Option<Vec<_>>>();
    numbers(version).zip(numbers(than)).is_some_and(|(version, than)| version > than)
}

/// Returns the images of a node, those most like a new version of the application first.
pub(crate) fn bases(survey: &Survey, app: &AppName) -> Vec<ImageId> {
    let (own, others): (Vec<&AppState>, Vec<&AppState>) = survey.apps.iter().partition(|state| state.app == *app);
    let current = own.iter().flat_map(|state| state.generations.iter().filter(|g| g.number == state.current));
    let newest = own.iter().flat_map(|state| state.generations.iter().rev());
    let staged = own.iter().flat_map(|state| state.staged.iter().rev().map(|s| s.image));
    let other = others.iter().flat_map(|state| state.generations.iter().rev().map(|g| g.image));
    let named = current.chain(newest).map(|g| g.image).chain(staged).chain(other);
    let mut bases: Vec<ImageId> = vec![];
    for base in named.chain(survey.images.iter().copied()) {
        if survey.images.contains(&base) && !bases.contains(&base) {
            bases.push(base);
        }
    }
    bases
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_core::{Digest, ReleaseId, Timestamp};
    use df_wire::message::{Generation, GenerationResult};

    fn image(name: &str) -> ImageId {
        ImageId(Digest::of(name.as_bytes()))
    }

    fn generation(number: u64, name: &str) -> Generation {
        let commit = "0123456789abcdef0123456789abcdef01234567".parse().expect("a commit");
        Generation {
            number,
            release: ReleaseId(Digest::of(b"")),
            commit,
            image: image(name),
            since: Timestamp(0),
            result: GenerationResult::Good,
            data_epoch: 1,
        }
    }

    /// An application, its current generation, and its generations with their images.
    type App<'a> = (&'a str, u64, &'a [(u64, &'a str)]);

    fn survey(images: &[&str], apps: &[App<'_>]) -> Survey {
        let apps = apps.iter().map(|(app, current, generations)| AppState {
            app: app.parse().expect("a name"),
            current: *current,
            wanted: true,
            running: vec![],
            generations: generations.iter().map(|(n, name)| generation(*n, name)).collect(),
            staged: vec![],
            given_up: None,
        });
        let images = images.iter().map(|name| image(name)).collect();
        Survey {
            arch: ARCH.into(),
            kernel: String::new(),
            libc: None,
            interpreters: None,
            free: 0,
            now: Timestamp(0),
            images,
            incoming: vec![],
            lock: None,
            trust: None,
            hands_out: true,
            proxy: None,
            boot: None,
            identity: None,
            apps: apps.collect(),
        }
    }

    #[test]
    fn what_serves_is_the_first_base_then_newer_generations_then_what_is_of_others() {
        let greeter: AppName = "greeter".parse().expect("a name");
        let node = survey(
            &["?", "v1", "v2", "v3", "x"],
            &[("other", 1, &[(1, "x")]), ("greeter", 2, &[(1, "v1"), (2, "v2"), (3, "v3"), (4, "gone")])],
        );
        assert_eq!(bases(&node, &greeter), ["v2", "v3", "v1", "x", "?"].map(image));
    }

    #[test]
    fn another_machine_is_refused_in_words() {
        let mut node = survey(&[], &[]);
        node.arch = "aarch64\x1b".into();
        assert_eq!(
            fits(&node).expect_err("another machine").to_string(),
            r"it is a machine of type aarch64\u{1b}; this df builds for x86_64"
        );
    }

    /// A release that starts `bin/app`, asks `bin/probe`, and lists what is given.
    fn release(needs: &[ProgramNeeds]) -> Release {
        let run = r#"{"exec":"bin/app","ready":0,"drain":0}"#;
        Release {
            format: 1,
            app: "greeter".parse().expect("a name"),
            commit: "0123456789abcdef0123456789abcdef01234567".parse().expect("a commit"),
            committed: Timestamp(0),
            recipe_key: df_core::RecipeKey(Digest::of(b"")),
            sandbox: df_core::spec::Sandbox::Strict,
            image: image("v1"),
            image_len: 1,
            run: Some(serde_json::from_str(run).expect("a section")),
            needs: needs.to_vec(),
            verify: vec![Probe::Command { argv: vec!["bin/probe".into(), "-q".into()] }],
        }
    }

    fn needs(path: &str, machine: &str, interpreter: Option<&str>, libc: Option<&str>) -> ProgramNeeds {
        ProgramNeeds {
            path: path.parse().expect("a path"),
            machine: machine.into(),
            interpreter: interpreter.map(str::to_owned),
            libc: libc.map(str::to_owned),
        }
    }

    /// An image of files and links; a link has a target.
    fn manifest(entries: &[(&str, Option<&str>)]) -> Manifest {
        let kind = |target: &Option<&str>| match target {
            Some("/") => Kind::Directory,
            Some(target) => Kind::Symlink { target: target.as_bytes().into() },
            None => Kind::File { executable: true, len: 1, digest: Digest::of(b"x") },
        };
        let entry =
            |(path, target): &(&str, Option<&str>)| df_core::Entry { path: path.parse().expect("a path"), kind: kind(target) };
        Manifest::new(entries.iter().map(entry).collect()).expect("a tree")
    }

    const LOADER: Option<&str> = Some("/lib64/ld-linux-x86-64.so.2");

    /// What a node with glibc 2.36 and the usual loader says to a release.
    #[track_caller]
    fn check(listed: &[ProgramNeeds], expected: &str) {
        let image = manifest(&[
            ("bin", Some("/")),
            ("bin/app", None),
            ("bin/probe", Some("../lib/probe")),
            ("lib", Some("/")),
            ("lib/probe", None),
        ]);
        let mut node = survey(&[], &[]);
        (node.libc, node.interpreters) = (Some("2.36".into()), LOADER.map(|loader| vec![loader.to_owned()]));
        let said = runs(&node, &release(listed), &image).err().map(|unfit| unfit.to_string()).unwrap_or_default();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_program_that_a_node_cannot_run_is_refused_in_words() {
        check(&[needs("bin/app", "x86_64", LOADER, Some("2.36"))], "");
        check(
            &[needs("bin/app", "x86_64", LOADER, Some("2.99"))],
            "bin/app needs version 2.99 of the GNU C library, and 2.36 is there",
        );
        check(&[needs("bin/app", "x86_64", LOADER, Some("2.9"))], "");
        check(&[needs("bin/app", "aarch64", None, None)], "bin/app is a program for aarch64, and the machine is x86_64");
        check(
            &[needs("bin/app", "x86_64", Some("/lib/ld-musl-x86_64.so.1"), None)],
            "bin/app is loaded by /lib/ld-musl-x86_64.so.1, which is not there",
        );
        check(
            &[needs("bin/app", "i686", Some("/lib/ld-linux.so.2"), Some("2.1"))],
            "bin/app is loaded by /lib/ld-linux.so.2, which is not there",
        );
        // By the link that the probe names, too.
        check(&[needs("lib/probe", "riscv64", None, None)], "lib/probe is a program for riscv64, and the machine is x86_64");
    }

    #[test]
    fn what_is_not_started_or_not_known_is_no_reason_to_refuse() {
        check(&[], "");
        check(&[needs("lib/foreign.so", "aarch64", None, None), needs("bin/other", "s390x", None, Some("2.99"))], "");
        check(&[needs("bin/app", "x86_64", None, None)], "");
        check(&[needs("bin/app", "i686", None, None)], "");
        check(&[needs("bin/app", "x86_64", Some("/nix/store/x/ld.so"), Some("2.99"))], "");
        let mut silent = survey(&[], &[]);
        silent.libc = None;
        let image = manifest(&[("bin", Some("/")), ("bin/app", None)]);
        assert_eq!(runs(&silent, &release(&[needs("bin/app", "x86_64", LOADER, Some("2.99"))]), &image), Ok(()));
    }

    #[test]
    fn links_lead_inside_of_the_image_or_nowhere() {
        let image = manifest(&[
            ("bin", Some("versions/2/bin")),
            ("versions", Some("/")),
            ("versions/2", Some("/")),
            ("versions/2/bin", Some("/")),
            ("versions/2/bin/app", Some("./real")),
            ("versions/2/bin/real", None),
            ("circle", Some("circle")),
            ("out", Some("../out")),
            ("host", Some("/bin/sh")),
            ("gone", Some("nothing")),
        ]);
        let check = |path: &str, expected: Option<&str>| {
            let found = resolve(&image, path.as_bytes()).map(|path| String::from_utf8(path).expect("UTF-8"));
            assert_eq!(found.as_deref(), expected, "{path}");
        };
        check("bin/app", Some("versions/2/bin/real"));
        check("versions/2/bin/real", Some("versions/2/bin/real"));
        ["circle", "out", "host", "gone", "none"].into_iter().for_each(|path| check(path, None));
    }
}
