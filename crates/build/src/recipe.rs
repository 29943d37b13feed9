//! The recipe of a commit, found without building: two kept files when nothing changed.

use std::collections::BTreeMap;

use df_core::recipe::Change;
use df_core::spec::{BuildSection, BuildTool, Sandbox};
use df_core::{AppName, Digest, Recipe, TreePath};
use serde::{Deserialize, Serialize};

use crate::environment::{self, Host};
use crate::keep::Keep;
use crate::source::{Commit, Repository, Source, TreeError, n_changed};
use crate::toolchain::{self, Chosen, Toolchain, ToolchainError, Wanted};

/// The one platform there is so far.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
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
}

pub(crate) fn prepare(
    repository: &Repository,
    commit: &Commit,
    section: &BuildSection,
    host: &Host,
    keep: &Keep,
) -> Result<Prepared, RecipeError> {
    let source = Source::of(repository, commit, keep)?;
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
    Ok(Prepared { recipe, toolchain, target_key })
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

/// Remembers the recipe by which an application was built.
pub(crate) fn remember(keep: &Keep, app: &AppName, recipe: &Recipe) {
    keep.write_json("last", &format!("{app}.json"), &Last { recipe: recipe.clone() }, N_KEPT);
}

#[derive(Serialize, Deserialize)]
struct Last {
    recipe: Recipe,
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
