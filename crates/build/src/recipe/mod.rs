//! The recipe of a commit, found without building: two kept files when nothing changed.

use std::collections::BTreeMap;

use df_core::recipe::Change;
use df_core::spec::{BuildSection, BuildTool, Sandbox};
use df_core::{AppName, Digest, Recipe, TreePath};
use serde::{Deserialize, Serialize};

use self::environment::Host;
use self::locked::Packages;
use self::toolchain::{Chosen, Toolchain, ToolchainError, Wanted};
use self::why::Known;
use crate::keep::Keep;
use crate::source::{Commit, Repository, Source, TreeError, n_changed};

pub(crate) mod environment;
pub(crate) mod locked;
pub(crate) mod toolchain;
pub(crate) mod why;

/// The one platform there is so far.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The file that names all packages from elsewhere.
const LOCK: &str = "Cargo.lock";
/// Applications whose last recipe is kept.
const N_KEPT: usize = 1000;

/// A commit has no recipe here.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RecipeError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
}

/// A recipe, and what performing it needs to know besides.
pub(crate) struct Prepared {
    pub recipe: Recipe,
    pub toolchain: Option<Toolchain>,
    pub target_key: Digest,
    /// The file of the commit that the build does not see.
    pub left_out: Option<TreePath>,
}

pub(crate) fn prepare(
    repository: &Repository,
    commit: &Commit,
    section: &BuildSection,
    configuration: &TreePath,
    host: &Host,
    keep: &Keep,
) -> Result<Prepared, RecipeError> {
    let left_out = left_out(section, configuration);
    let source = Source::of(repository, commit, keep, left_out.as_ref())?;
    source.check_links(&section.outside_links)?;
    let strict = section.sandbox == Sandbox::Strict;
    let toolchain = match section.tool {
        BuildTool::Files => None,
        BuildTool::Cargo(_) => Some(tools(repository, commit, &source, host, keep, Wanted { cargo: true, strict })?),
        BuildTool::Command { .. } => Some(tools(repository, commit, &source, host, keep, Wanted { cargo: false, strict })?),
    };
    let recipe = Recipe {
        source: source.digest,
        parts: source.parts,
        build: section.clone(),
        toolchain: toolchain.as_ref().map(|t| t.versions.clone()).unwrap_or_default(),
        target: TARGET.into(),
        environment: environment(section, host, keep),
    };
    let target_key = target_key(host, toolchain.as_ref());
    Ok(Prepared { recipe, toolchain, target_key, left_out })
}

/// Returns the whole environment of the build. A strict one knows nothing of the machine: equal tools give equal recipes wherever they are.
fn environment(section: &BuildSection, host: &Host, keep: &Keep) -> BTreeMap<String, String> {
    let mut environment = match (&section.tool, section.sandbox) {
        (BuildTool::Files, _) => return BTreeMap::new(),
        (_, Sandbox::Strict) => return environment::of_room(),
        (BuildTool::Cargo(_), Sandbox::Off) => crate::cargo::environment(host, &keep.dir),
        (BuildTool::Command { .. }, Sandbox::Off) => host.environment(),
    };
    // The source is no repository; a build script that asks git must not find one around the cache and build its commit in.
    environment.insert("GIT_CEILING_DIRECTORIES".into(), keep.dir.to_string_lossy().into_owned());
    environment
}

/// Returns under what a kept target directory may be used again: other tools or another environment need an empty one, because cargo itself does
/// not see every such change (a new C compiler, for one).
fn target_key(host: &Host, toolchain: Option<&Toolchain>) -> Digest {
    Digest::of(format!("{:?} {:?}", toolchain.map(|t| &t.versions), host.environment()).as_bytes())
}

/// Returns the configuration's path when the build does not see that file: how a program is run and verified is no part of what is built. A file that
/// becomes part of the image is.
fn left_out(section: &BuildSection, configuration: &TreePath) -> Option<TreePath> {
    let covers =
        |from: &[u8]| configuration.as_bytes().strip_prefix(from).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
    let is_included = section.include.keys().any(|from| covers(from.as_str().as_bytes()));
    (!is_included).then(|| configuration.clone())
}

/// Returns what differs from the recipe that the application was last built by; `None` when none is known.
pub(crate) fn changes(keep: &Keep, app: &AppName, recipe: &Recipe) -> Option<Vec<Change>> {
    let last: Last = keep.read("last", &format!("{app}.json"))?;
    let mut changes = recipe.changes_since(&last.recipe);
    let n = if last.recipe.source == recipe.source { None } else { n_changed(keep, last.recipe.source, recipe.source) };
    if let Some(n @ 1..) = n {
        let part = if n == 1 { "1 source file".to_owned() } else { format!("{n} source files") };
        changes.retain(|change| change.part != "source");
        changes.push(Change { part, old: last.recipe.source.short(), new: recipe.source.short() });
    }
    Some(changes)
}

/// Returns the same in a person's words, one text for each change.
pub(crate) fn why(repository: &Repository, commit: &Commit, keep: &Keep, app: &AppName, recipe: &Recipe) -> Option<Vec<String>> {
    let last: Last = keep.read("last", &format!("{app}.json"))?;
    let n_files = if last.recipe.source == recipe.source { Some(0) } else { n_changed(keep, last.recipe.source, recipe.source) };
    let is_other_lock = last.recipe.parts.get(LOCK) != recipe.parts.get(LOCK);
    let packages = if is_other_lock { last.packages.clone().zip(packages(repository, commit)) } else { None };
    Some(why::reasons(&last.recipe, recipe, &Known { n_files, packages }))
}

/// Remembers the recipe by which an application was built, and the packages that it was built with.
pub(crate) fn remember(repository: &Repository, commit: &Commit, keep: &Keep, app: &AppName, recipe: &Recipe) {
    let last = Last { recipe: recipe.clone(), packages: packages(repository, commit) };
    keep.write_json("last", &format!("{app}.json"), &last, N_KEPT);
}

#[derive(Serialize, Deserialize)]
struct Last {
    recipe: Recipe,
    #[serde(default)]
    packages: Option<Packages>,
}

fn packages(repository: &Repository, commit: &Commit) -> Option<Packages> {
    let lock = repository.file(commit, &TreePath::new(LOCK.as_bytes()).ok()?).ok().flatten()?;
    Packages::parse(&lock)
}

fn tools(
    repository: &Repository,
    commit: &Commit,
    source: &Source,
    host: &Host,
    keep: &Keep,
    wanted: Wanted,
) -> Result<Toolchain, ToolchainError> {
    let names = ["rust-toolchain", "rust-toolchain.toml"];
    let digests: Vec<(&'static str, Digest)> = names.iter().filter_map(|name| Some((*name, *source.parts.get(*name)?))).collect();
    let read = |name: &str| repository.file(commit, &TreePath::new(name.as_bytes()).ok()?).ok().flatten();
    toolchain::of(host, keep, &Chosen { digests, read: &read }, wanted)
}

#[cfg(test)]
mod tests {
    use df_core::spec::{CargoBuild, Relocatable};
    use df_testkit::Repo;

    use super::*;

    /// A machine of another user: other homes, another order of the search path, another cache directory.
    fn host(home: &str, reversed: bool) -> Host {
        let real = |name: &str| std::env::var(name).ok();
        let below_home = |name: &str, dir: &str| real(name).or_else(|| Some(format!("{}/{dir}", real("HOME")?)));
        Host::of(&|name| match name {
            "HOME" => Some(home.to_owned()),
            "RUSTUP_HOME" => below_home(name, ".rustup"),
            "PATH" if reversed => Some(real(name)?.rsplit(':').collect::<Vec<_>>().join(":")),
            "PATH" => real(name),
            _ => None,
        })
    }

    #[test]
    fn two_users_with_the_same_tools_have_one_strict_recipe() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = Repo::new(&dir.path().join("repo"));
        repo.commit(&[("a", "1")], "one");
        let repository = Repository::open(repo.dir()).expect("a repository");
        let commit = repository.resolve("HEAD").expect("a commit");
        let key = |sandbox, home: &str, reversed| {
            let section = BuildSection {
                tool: BuildTool::Cargo(CargoBuild { profile: "release".into(), ..CargoBuild::default() }),
                include: BTreeMap::new(),
                outside_links: vec![],
                relocatable: Relocatable::Warn,
                sandbox,
                fetch: vec![],
                is_static: false,
            };
            let home = dir.path().join(home);
            std::fs::create_dir_all(home.join(".cargo")).expect("a directory");
            std::fs::write(home.join(".cargo/config.toml"), format!("[net]\nretry = {}\n", home.as_os_str().len()))
                .expect("written");
            let keep = Keep { dir: home.join("cache/build") };
            crate::keep::make_dir(&keep.dir).expect("a directory");
            let configuration = TreePath::new(b"df.yaml").expect("a path");
            let host = host(home.to_str().expect("text"), reversed);
            prepare(&repository, &commit, &section, &configuration, &host, &keep).expect("a recipe").recipe
        };
        let (ann, bob) = (key(Sandbox::Strict, "ann", false), key(Sandbox::Strict, "bob-with-a-longer-name", true));
        assert_eq!(ann.changes_since(&bob), vec![]);
        assert_eq!(ann.key(), bob.key());
        // Without a room of its own a build sees whose machine it is.
        assert_ne!(key(Sandbox::Off, "ann", false).key(), key(Sandbox::Off, "bob-with-a-longer-name", true).key());
    }

    #[test]
    fn only_an_include_that_covers_it_makes_the_configuration_count() {
        let with = |from: &str, configuration: &str| {
            let section = BuildSection {
                tool: BuildTool::Files,
                include: [from]
                    .map(|from| {
                        (df_core::name::PathText::new(from).expect("a path"), df_core::name::PathText::new("x").expect("a path"))
                    })
                    .into(),
                outside_links: vec![],
                relocatable: Relocatable::Warn,
                sandbox: Sandbox::Off,
                fetch: vec![],
                is_static: false,
            };
            left_out(&section, &TreePath::new(configuration.as_bytes()).expect("a path")).is_none()
        };
        assert!(with("df.yaml", "df.yaml") && with("sub", "sub/df.yaml"));
        assert!(!with("df.yaml2", "df.yaml") && !with("df", "df.yaml") && !with("sub", "sub2/df.yaml"));
    }
}
