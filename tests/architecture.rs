//! The map (`crates/README.md`) is true: its floors and arrows are those of `cargo metadata`, and every crate says what it refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// The rooms as the map shows them.
struct Map {
    /// Floor of each room; a development room has none.
    floors: BTreeMap<String, Option<u32>>,
    /// What a room may use, besides core.
    arrows: BTreeMap<String, BTreeSet<String>>,
}

/// One use of a room by another, as cargo sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    from: String,
    to: String,
    is_dev: bool,
}

/// Lists what of `uses` the map does not allow, and what of the map nobody uses.
fn disagreements(map: &Map, uses: &[Use]) -> Vec<String> {
    let wrong = uses.iter().filter_map(|one| refusal(map, one));
    let drawn = map.arrows.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    let unused = drawn
        .filter(|(from, to)| !uses.iter().any(|one| !one.is_dev && one.from == **from && one.to == **to))
        .map(|(from, to)| format!("the map draws {from} -> {to}, which nothing uses"));
    wrong.chain(unused).chain(upward(map)).collect()
}

fn refusal(map: &Map, one: &Use) -> Option<String> {
    let Use { from, to, is_dev } = one;
    // The root package holds the programs and these tests; it looks at the house from outside.
    let allowed = match (from.as_str(), to.as_str()) {
        ("df", "cli" | "deploy") => true,
        (_, "testkit") => *is_dev,
        // Its benches measure one step at a time, from inside.
        ("df", "core" | "delta" | "cache") => *is_dev,
        ("reload" | "testkit", _) => false,
        (_, "core") => true,
        _ => map.arrows.get(from).is_some_and(|targets| targets.contains(to)),
    };
    (!allowed).then(|| format!("{from} uses {to}{}, which the map does not draw", if *is_dev { " in its tests" } else { "" }))
}

/// Lists the arrows that do not go down: rooms on one floor do not know each other.
fn upward(map: &Map) -> impl Iterator<Item = String> {
    let floor = |room: &str| map.floors.get(room).copied().flatten();
    map.arrows.iter().flat_map(move |(from, targets)| {
        targets.iter().filter(move |to| floor(to) >= floor(from)).map(move |to| format!("{from} -> {to} does not go down"))
    })
}

#[test]
fn the_arrows_are_those_of_the_map() {
    assert_eq!(disagreements(&map(), &uses(&metadata())), Vec::<String>::new());
}

#[test]
fn a_wrong_arrow_is_reported() {
    let mut uses = uses(&metadata());
    uses.push(Use { from: "fleet".into(), to: "deploy".into(), is_dev: false });
    uses.push(Use { from: "reload".into(), to: "core".into(), is_dev: false });
    uses.push(Use { from: "wire".into(), to: "testkit".into(), is_dev: false });
    let expect = [
        "fleet uses deploy, which the map does not draw",
        "reload uses core, which the map does not draw",
        "wire uses testkit, which the map does not draw",
    ];
    assert_eq!(disagreements(&map(), &uses), expect);
}

#[test]
fn an_arrow_too_many_on_the_map_is_reported() {
    let mut map = map();
    map.arrows.entry("delta".into()).or_default().insert("cli".into());
    let expect = ["the map draws delta -> cli, which nothing uses", "delta -> cli does not go down"];
    assert_eq!(disagreements(&map, &uses(&metadata())), expect);
}

#[test]
fn the_map_shows_every_room_and_no_other() {
    let rooms: BTreeSet<String> = metadata().workspace_packages().iter().map(|p| room(&p.name)).collect();
    let mut drawn: BTreeSet<String> = map().floors.into_keys().collect();
    drawn.insert("df".into());
    assert_eq!(drawn, rooms);
}

#[test]
fn every_room_says_its_invariants_and_what_it_refuses() {
    let silent: Vec<String> = map().floors.into_keys().filter(|room| !says_enough(&doc_of(room))).collect();
    assert_eq!(silent, Vec::<String>::new(), "the doc of lib.rs names no invariants, or nothing that the crate refuses");
    assert!(!says_enough("Bytes and a base to fewer bytes. Invariants: none."));
}

fn says_enough(doc: &str) -> bool {
    doc.contains("Invariants") && ["refuses to", "refuses:"].iter().any(|words| doc.contains(words))
}

/// Returns the inner doc comment of a crate.
fn doc_of(room: &str) -> String {
    let text = read(&root().join("crates").join(room).join("src/lib.rs"));
    text.lines().map_while(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_dependency_has_its_version_and_its_reason_in_the_root() {
    let manifest = read(&root().join("Cargo.toml"));
    let declared: Vec<&str> = section(&manifest, "[workspace.dependencies]").filter(|line| !line.contains("path = ")).collect();
    assert!(declared.len() > 10, "the section was found");
    let unexplained: Vec<&&str> = declared.iter().filter(|line| reason(line).is_none()).collect();
    assert!(unexplained.is_empty(), "no reason: {unexplained:?}");
    assert_eq!(reason("tar = \"0.4\""), None, "the check sees a missing reason");

    let metadata = metadata();
    let used: BTreeSet<String> =
        metadata.workspace_packages().iter().flat_map(|p| p.dependencies.iter().map(|d| d.name.clone())).collect();
    let unused: Vec<&&str> = declared.iter().filter(|line| !used.contains(key(line))).collect();
    assert!(unused.is_empty(), "used by no crate: {unused:?}");

    for package in metadata.workspace_packages() {
        let manifest = read(package.manifest_path.as_std_path());
        let sections = ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"];
        let own: Vec<&str> =
            sections.iter().flat_map(|name| section(&manifest, name)).filter(|line| !line.contains("workspace = true")).collect();
        assert!(own.is_empty(), "{} names versions of its own: {own:?}", package.name);
    }
}

fn key(line: &str) -> &str {
    line.split(['=', '.']).next().unwrap_or_default().trim()
}

/// Returns what a line says behind its `#`.
fn reason(line: &str) -> Option<&str> {
    line.rsplit_once(" # ").map(|(_, reason)| reason.trim()).filter(|reason| reason.split(' ').count() > 2)
}

/// Lists the lines of a section that declare something.
fn section<'a>(manifest: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = manifest.lines().skip_while(move |line| *line != name).skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[test]
fn a_node_gets_nothing_of_the_operator() {
    let crates = crates_of_df_node();
    assert!(crates.contains("df-deploy") && crates.contains("blake3"), "cargo tree was understood: {crates:?}");
    assert_eq!(foreign_on_a_node(&crates), Vec::<&str>::new());
    let with_more = BTreeSet::from(["blake3".to_owned(), "aws-sdk-s3".to_owned(), "tokio".to_owned()]);
    assert_eq!(foreign_on_a_node(&with_more), ["aws-sdk-s3", "tokio"]);
}

fn foreign_on_a_node(crates: &BTreeSet<String>) -> Vec<&str> {
    const FOREIGN: [&str; 10] =
        ["git2", "libgit2-sys", "clap", "cargo_metadata", "indicatif", "tokio", "anyhow", "df-build", "df-fleet", "df-cli"];
    crates.iter().map(String::as_str).filter(|name| name.starts_with("aws-") || FOREIGN.contains(name)).collect()
}

fn crates_of_df_node() -> BTreeSet<String> {
    let words = "tree --locked --offline -p df --no-default-features --features node -e normal --prefix none -f {p} \
                 --target x86_64-unknown-linux-gnu";
    let output = Command::new(env!("CARGO")).args(words.split_whitespace()).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names of crates");
    text.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[test]
fn no_text_leads_out_of_the_repository_and_no_name_is_empty_of_meaning() {
    let mut found = Vec::new();
    for path in texts() {
        let text = read(&path);
        found.extend(text.lines().enumerate().filter_map(|(n, line)| {
            let why = complaint(line, path.extension().is_some_and(|e| e == "rs"))?;
            Some(format!("{}:{}: {why}: {line}", path.display(), n + 1))
        }));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(complaint(&format!("see ..{}", "/shared/notes"), false).is_some());
    assert!(complaint(&format!("struct Path{} {{", "Helper"), true).is_some());
}

fn complaint(line: &str, is_code: bool) -> Option<&'static str> {
    if line.contains(concat!("..", "/shared")) {
        return Some("leads out of the repository");
    }
    let declares = ["struct ", "enum ", "trait ", "mod "].iter().any(|word| line.contains(word));
    let empty = ["Manager", "Helper", "Handler", "Util"];
    let name =
        |end: &&str| line.contains(&format!("{end} ")) || line.contains(&format!("{end};")) || line.contains(&format!("{end}("));
    (is_code && declares && !line.trim_start().starts_with("//") && empty.iter().any(name)).then_some("a name that says nothing")
}

/// Lists the text files of the repository, by name and not by git, so that this works in an archive too.
fn texts() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in ["crates", "tests", "benches", "ci", "docs", ".ci"] {
        walk(&root().join(place), &mut found);
    }
    found.extend(["Cargo.toml", "README.md", "df.yaml.example"].map(|name| root().join(name)).into_iter().filter(|p| p.exists()));
    found
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a directory entry"));
        if kind.is_dir() {
            walk(&path, found);
        } else if kind.is_file() && std::fs::read_to_string(&path).is_ok() {
            found.push(path);
        }
    }
}

/// Reads the map: rows `| room | floor | ...` and the lines of arrows, which are indented by four spaces.
fn map() -> Map {
    let text = read(&root().join("crates/README.md"));
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        match cells.as_slice() {
            ["", room, "dev", _, ..] => Some(((*room).to_owned(), None)),
            ["", room, floor, _, ..] => Some(((*room).to_owned(), Some(floor.parse().ok()?))),
            _ => None,
        }
    });
    let floors: BTreeMap<_, _> = rows.collect();
    let arrows = text.lines().filter(|line| line.starts_with("    ")).filter_map(|line| line.trim().split_once(" -> "));
    let arrows = arrows.filter(|(from, _)| floors.contains_key(*from));
    let arrows = arrows.map(|(from, to)| (from.to_owned(), to.split(", ").map(str::to_owned).collect())).collect();
    Map { floors, arrows }
}

fn uses(metadata: &Metadata) -> Vec<Use> {
    let packages = metadata.workspace_packages();
    let rooms: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut uses = Vec::new();
    for package in &packages {
        for dependency in package.dependencies.iter().filter(|d| rooms.contains(d.name.as_str())) {
            let is_dev = dependency.kind == DependencyKind::Development;
            uses.push(Use { from: room(&package.name), to: room(&dependency.name), is_dev });
        }
    }
    uses
}

/// Returns the directory of a package, which is what the map calls it.
fn room(package: &str) -> String {
    match package {
        "distributive-flow" => "reload".into(),
        other => other.strip_prefix("df-").unwrap_or(other).into(),
    }
}

fn metadata() -> Metadata {
    let options = ["--offline", "--locked"].map(str::to_owned);
    MetadataCommand::new().current_dir(root()).no_deps().other_options(options).exec().expect("cargo metadata answers")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
