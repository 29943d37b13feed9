//! The section `build`.

use std::collections::BTreeMap;

use df_core::name::PathText;
use df_core::spec::{BuildSection, BuildTool, CargoBuild, FetchedDigest, FetchedFile, Relocatable, Sandbox};

use super::error::{Fault, show};
use super::value::{Section, Value};

/// Reads the section. `targets` are programs that `verify` asks for by `target`: a cargo build that names its programs builds them too.
pub(super) fn read(value: &Value<'_>, targets: &[String]) -> Result<BuildSection, Fault> {
    let section = Section::open(value, "build")?;
    let include = section.or("include", BTreeMap::new(), include)?;
    let tool = tool(&section, include.is_empty(), targets)?;
    let fetch = section.or("fetch", Vec::new(), fetch)?;
    if !fetch.is_empty() && !matches!(tool, BuildTool::Command { .. }) {
        return Err(section.need("fetch")?.refuse("is for command builds; cargo fetches what Cargo.lock names"));
    }
    let is_static = section.or("static", false, Value::flag)?;
    if is_static && !matches!(tool, BuildTool::Cargo(_)) {
        return Err(section.need("static")?.refuse("is for cargo builds; a command links its programs itself"));
    }
    Ok(BuildSection {
        tool,
        include,
        outside_links: section.or("outside_links", Vec::new(), outside_links)?,
        relocatable: section.or("relocatable", Relocatable::Warn, |value| {
            value.choice(&[("warn", Relocatable::Warn), ("required", Relocatable::Required)])
        })?,
        sandbox: section
            .or("sandbox", Sandbox::Strict, |value| value.choice(&[("strict", Sandbox::Strict), ("off", Sandbox::Off)]))?,
        fetch,
        is_static,
    })
}

fn tool(section: &Section<'_>, no_include: bool, targets: &[String]) -> Result<BuildTool, Fault> {
    // `cargo:` alone says enough: a cargo project, everything by default.
    let cargo = section.get_even_empty("cargo");
    match (cargo, section.get("command"), section.get("output")) {
        (Some(_), Some(second), _) | (Some(_), None, Some(second)) => {
            Err(second.refuse("stands beside \"cargo\"; a build is either cargo, or command and output"))
        }
        (Some(value), None, None) => cargo_build(&value, targets).map(BuildTool::Cargo),
        (None, Some(command), output) => {
            let line = command.lines()?;
            if line.trim().is_empty() {
                return Err(command.refuse("is empty"));
            }
            let output = output.ok_or_else(|| section.refuse("\"command\" needs \"output\", the directory that it leaves"))?;
            Ok(BuildTool::Command { command: line.to_owned(), output: output.path()? })
        }
        (None, None, Some(output)) => Err(output.refuse("stands without \"command\"")),
        (None, None, None) if no_include => {
            Err(section.refuse("\"cargo\", or \"command\" with \"output\", or at least one \"include\" is needed"))
        }
        (None, None, None) => Ok(BuildTool::Files),
    }
}

fn cargo_build(value: &Value<'_>, targets: &[String]) -> Result<CargoBuild, Fault> {
    let empty = CargoBuild { profile: "release".to_owned(), default_features: true, ..CargoBuild::default() };
    if value.is_null() {
        return Ok(empty);
    }
    let section = Section::open(value, "build.cargo")?;
    let words = |key| section.or(key, Vec::new(), |value| value.list()?.iter().map(cargo_word).collect());
    let (mut bins, examples) = (words("bins")?, words("examples")?);
    if !(bins.is_empty() && examples.is_empty()) {
        for target in targets {
            if !bins.contains(target) && !examples.contains(target) {
                bins.push(target.clone());
            }
        }
    }
    Ok(CargoBuild {
        package: section.option("package", cargo_word)?,
        bins,
        examples,
        profile: section.or("profile", empty.profile, cargo_word)?,
        features: words("features")?,
        default_features: section.or("default_features", true, Value::flag)?,
    })
}

/// Returns a word for cargo's command line: one that cannot be taken for a flag, a path or a list.
fn cargo_word(value: &Value<'_>) -> Result<String, Fault> {
    let word = value.word()?;
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/' | '@' | ':');
    if word.starts_with('-') || !word.chars().all(allowed) {
        return Err(value.refuse(format!("\"{}\" is no name that cargo knows", show(word))));
    }
    Ok(word.to_owned())
}

fn include(value: &Value<'_>) -> Result<BTreeMap<PathText, PathText>, Fault> {
    let mut include = BTreeMap::new();
    for entry in value.entries()? {
        let from = PathText::new(entry.name).map_err(|error| entry.refuse(error.to_string()))?;
        if entry.name == "~" || entry.name.starts_with("~/") {
            return Err(entry.refuse(format!("path \"{}\" begins with ~, which is not expanded here", show(entry.name))));
        }
        include.insert(from, entry.value.path()?);
    }
    Ok(include)
}

fn fetch(value: &Value<'_>) -> Result<Vec<FetchedFile>, Fault> {
    let mut files: Vec<FetchedFile> = Vec::new();
    for value in value.list()? {
        let section = Section::open(&value, "build.fetch[]")?;
        let digest = match (section.get("blake3"), section.get("sha256")) {
            (Some(blake3), None) => FetchedDigest::Blake3(blake3.word()?.to_owned()),
            (None, Some(sha256)) => FetchedDigest::Sha256(sha256.word()?.to_owned()),
            _ => return Err(section.refuse("exactly one of blake3 and sha256 is needed")),
        };
        let (url, to) = (section.need("url")?.word()?.to_owned(), section.need("to")?);
        let file = FetchedFile { url, digest, to: to.path()? };
        if let Some(why) = file.wrong() {
            return Err(section.refuse(format!("\"{}\" {why}", show(&file.url))));
        }
        if files.iter().any(|other| other.to == file.to) {
            return Err(to.refuse(format!("\"{}\" stands here already", show(file.to.as_str()))));
        }
        files.push(file);
    }
    Ok(files)
}

fn outside_links(value: &Value<'_>) -> Result<Vec<String>, Fault> {
    let mut links = Vec::new();
    for link in value.list()? {
        let target = link.word()?;
        if !target.starts_with('/') {
            return Err(
                link.refuse(format!("\"{}\" is no absolute target; links inside of the image need no leave", show(target)))
            );
        }
        links.push(target.to_owned());
    }
    Ok(links)
}
