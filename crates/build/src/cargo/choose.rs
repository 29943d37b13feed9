//! Which package of a project is built, and which of its programs.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use cargo_metadata::{Metadata, Package, PackageId};
use df_core::spec::CargoBuild;
use df_core::text::{escape, shorten};

use super::CargoError;

/// Names of programs.
pub(super) struct Programs {
    pub bins: Vec<String>,
    pub examples: Vec<String>,
}

/// Returns the packages whose files the commit holds: its own, and vendored ones. The latter say that a registry is their source, and cargo trusts the
/// checksum of the whole package that stands beside them, which an edited file need not have changed.
pub(super) fn in_source<'a>(metadata: &'a Metadata, source: &'a Path) -> impl Iterator<Item = &'a Package> {
    metadata.packages.iter().filter(move |package| package.source.is_none() || package.manifest_path.starts_with(source))
}

/// Returns the packages that come from the source: those that have no registry and no git revision.
pub(super) fn local(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|package| package.source.is_none())
}

pub(super) fn check_inside(metadata: &Metadata, source: &Path) -> Result<(), CargoError> {
    let outside = |path: &Path| !path.starts_with(source);
    if outside(metadata.workspace_root.as_std_path()) {
        return Err(CargoError::Outside {
            package: "the workspace".into(),
            path: escape(metadata.workspace_root.as_str().as_bytes()),
        });
    }
    match local(metadata).find(|package| outside(package.manifest_path.as_std_path())) {
        Some(package) => {
            let path = escape(package.manifest_path.as_str().as_bytes());
            Err(CargoError::Outside { package: escape(package.name.as_bytes()), path })
        }
        None => Ok(()),
    }
}

pub(super) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| escape(name.as_bytes())).collect();
    if names.is_empty() { "none".to_owned() } else { shorten(&names.join(", "), 400) }
}

pub(super) fn choose_package<'a>(metadata: &'a Metadata, wanted: &CargoBuild) -> Result<&'a Package, CargoError> {
    let members = metadata.workspace_packages();
    let known = || list(members.iter().map(|package| package.name.as_str()));
    match &wanted.package {
        Some(name) => members
            .iter()
            .find(|package| package.name.as_str() == name)
            .copied()
            .ok_or_else(|| CargoError::NoPackage { name: escape(name.as_bytes()), known: known() }),
        None => match (metadata.root_package(), &members[..]) {
            (Some(root), _) => Ok(root),
            (None, [only]) => Ok(only),
            (None, _) => Err(CargoError::WhichPackage { known: known() }),
        },
    }
}

pub(super) fn choose_programs(package: &Package, wanted: &CargoBuild) -> Result<Programs, CargoError> {
    let bins: Vec<String> = package.targets.iter().filter(|target| target.is_bin()).map(|target| target.name.clone()).collect();
    let examples: Vec<String> =
        package.targets.iter().filter(|target| target.is_example()).map(|target| target.name.clone()).collect();
    let check = |kind, names: &[String], known: &[String]| match names.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(CargoError::NoTarget {
            package: escape(package.name.as_bytes()),
            kind,
            name: escape(name.as_bytes()),
            known: list(known.iter().map(String::as_str)),
        }),
        None => Ok(()),
    };
    check("program", &wanted.bins, &bins)?;
    check("example", &wanted.examples, &examples)?;
    if !wanted.bins.is_empty() || !wanted.examples.is_empty() {
        return Ok(Programs { bins: wanted.bins.clone(), examples: wanted.examples.clone() });
    }
    if bins.is_empty() {
        return Err(CargoError::NoPrograms { package: escape(package.name.as_bytes()) });
    }
    Ok(Programs { bins, examples: vec![] })
}

/// Returns how many packages the chosen one needs at most, itself counted: with all features and what only tests need, so often fewer are compiled.
pub(super) fn n_reachable(metadata: &Metadata, from: &PackageId) -> usize {
    let Some(resolve) = &metadata.resolve else { return metadata.packages.len() };
    let nodes: HashMap<&PackageId, &[PackageId]> = resolve.nodes.iter().map(|node| (&node.id, &node.dependencies[..])).collect();
    let (mut seen, mut open) = (HashSet::from([from]), vec![from]);
    while let Some(id) = open.pop() {
        open.extend(nodes.get(id).into_iter().flat_map(|dependencies| dependencies.iter()).filter(|&id| seen.insert(id)));
    }
    seen.len()
}

pub(super) fn name_of(metadata: &Metadata, id: &PackageId) -> String {
    let package = metadata.packages.iter().find(|package| package.id == *id);
    escape(package.map_or(id.repr.as_str(), |package| package.name.as_str()).as_bytes())
}
