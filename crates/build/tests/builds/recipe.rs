//! What counts for a recipe, what does not, and how a change is told.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use df_build::{BuildEvent, Built, Repository};
use df_core::TreePath;
use df_core::spec::{BuildSection, BuildTool, Sandbox};
use df_testkit::Repo;
use df_testkit::repo::RawEntry;

use crate::support::{self, Place, off, path, place};

impl Place {
    /// Returns why a build is refused; nothing of it may have begun.
    fn refused_early(&self, section: &BuildSection) -> String {
        let outcome = self.build(section);
        let ran = outcome.events.iter().any(|event| matches!(event, BuildEvent::Phase(_)));
        assert!(!ran, "{:?}", outcome.events);
        outcome.refusal()
    }

    fn why(&self, section: &BuildSection) -> Option<Vec<String>> {
        let (repository, commit) = self.head();
        self.builder().why(&repository, &commit, &self.recipe(section))
    }
}

fn command(line: &str) -> BuildSection {
    off(support::command(line))
}

const LIST: &str = "mkdir out; ls > out/list";

fn listed(built: &Built) -> Vec<String> {
    fs::read_to_string(built.output.join("list")).expect("written").lines().map(str::to_owned).collect()
}

#[test]
fn other_settings_for_running_build_nothing() {
    let place = place(&[("df.yaml", "run: 1"), ("a", "1"), ("sub/df.yaml", "1")]);
    let first = place.recipe(&command(LIST));
    let built = place.build(&command(LIST)).built();
    assert_eq!(listed(&built), ["a", "out", "sub"], "the build does not see what does not count");
    drop(built);
    place.repo.commit(&[("df.yaml", "run: 2")], "two");
    assert_eq!(place.recipe(&command(LIST)).key(), first.key());
    assert_eq!(place.why(&command(LIST)), Some(vec![]));
    // A file of that name anywhere else is a file.
    place.repo.commit(&[("sub/df.yaml", "2")], "three");
    assert_ne!(place.recipe(&command(LIST)).key(), first.key());
}

#[test]
fn the_file_that_configures_is_the_one_that_is_named() {
    let place = place(&[("df.yaml", "1"), ("sub/df.yaml", "1"), ("sub/a", "1")]);
    let builder = || place.builder().configured_by(TreePath::new(b"sub/df.yaml").expect("a path"));
    let first = place.recipe_by(&builder(), &command(LIST));
    place.repo.commit(&[("sub/df.yaml", "2")], "two");
    assert_eq!(place.recipe_by(&builder(), &command(LIST)).key(), first.key());
    place.repo.commit(&[("df.yaml", "2")], "three");
    assert_ne!(place.recipe_by(&builder(), &command(LIST)).key(), first.key());
}

#[test]
fn settings_that_become_part_of_the_image_count() {
    let place = place(&[("df.yaml", "run: 1"), ("a", "1")]);
    let with_it = |tool| BuildSection { include: [(path("df.yaml"), path("share/df.yaml"))].into(), ..off(tool) };
    let sections = [with_it(BuildTool::Command { command: LIST.into(), output: path("out") }), with_it(BuildTool::Files)];
    let before = sections.each_ref().map(|section| place.recipe(section).key());
    assert_eq!(listed(&place.build(&sections[0]).built()), ["a", "df.yaml", "out"]);
    place.repo.commit(&[("df.yaml", "run: 2")], "two");
    for (section, before) in sections.iter().zip(before) {
        assert_ne!(place.recipe(section).key(), before, "{section:?}");
        let text = fs::read_to_string(place.build(section).built().output.join("share/df.yaml")).expect("included");
        assert_eq!(text, "run: 2");
    }
}

#[test]
fn commits_of_equal_trees_have_one_recipe() {
    let place = place(&[("a", "1")]);
    let first = place.recipe(&command(LIST));
    place.repo.commit(&[("a", "2")], "two");
    assert_ne!(place.recipe(&command(LIST)).key(), first.key());
    place.repo.commit(&[("a", "1")], "a revert, by another commit with another message");
    assert_eq!(place.recipe(&command(LIST)).key(), first.key());
}

/// Makes another commit of HEAD's tree: no parent, another person, another time, another encoding.
fn commit_again(repo: &Repo) -> String {
    let output = Command::new("git")
        .args(["-c", "i18n.commitEncoding=latin1", "commit-tree", "-m", "another", "HEAD^{tree}"])
        .current_dir(repo.dir())
        .envs(["AUTHOR", "COMMITTER"].iter().flat_map(|who| {
            ["NAME", "EMAIL", "DATE"]
                .iter()
                .zip(["Other", "o@example.org", "2001-02-03T04:05:06 +0700"])
                .map(move |(what, value)| (format!("GIT_{who}_{what}"), value))
        }))
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("an id").trim().to_owned()
}

#[test]
fn who_committed_when_and_why_does_not_count() {
    let place = place(&[("a", "1"), ("b/c", "2")]);
    let repository = Repository::open(place.repo.dir()).expect("a repository");
    let recipe = |revision: &str| {
        let commit = repository.resolve(revision).expect("a commit");
        place.builder().recipe_of(&repository, &commit, &command(LIST)).expect("a recipe")
    };
    let other = commit_again(&place.repo);
    assert_ne!(repository.resolve(&other).expect("a commit").id, repository.resolve("HEAD").expect("a commit").id);
    assert_eq!(recipe(&other).key(), recipe("HEAD").key());
}

#[test]
fn what_a_repository_is_told_to_run_or_to_replace_changes_no_build() {
    let place = place(&[
        ("a", "true"),
        ("b", "two"),
        (".gitattributes", "* filter=evil ident text eol=crlf working-tree-encoding=UTF-16\n"),
    ]);
    let expected = place.recipe(&command("mkdir out; cp a b out"));
    let (git, canary) = (place.repo.dir().join(".git"), place.dir.path().join("canary"));
    let run = format!("touch {}", canary.display());
    let included = git.join("more");
    fs::write(&included, format!("[filter \"evil\"]\n\tprocess = {run}\n\tsmudge = {run}\n\trequired = true\n"))
        .expect("written");
    let config = format!(
        "\n[include]\n\tpath = {}\n[core]\n\tfsmonitor = {run}\n\tautocrlf = true\n\tgitProxy = {run}\n\taskPass = {run}\n\
         [gpg]\n\tprogram = {run}\n[credential]\n\thelper = !{run}\n[uploadpack]\n\tpackObjectsHook = {run}\n\
         [url \"ext::{run}\"]\n\tinsteadOf = https://\n[remote \"origin\"]\n\turl = ext::{run}\n\tpromisor = true\n",
        included.display()
    );
    let before = fs::read_to_string(git.join("config")).expect("a config");
    fs::write(git.join("config"), before + &config).expect("written");
    fs::create_dir_all(git.join("hooks")).expect("a directory");
    for hook in ["post-checkout", "post-commit", "pre-auto-gc", "post-index-change", "reference-transaction"] {
        fs::write(git.join("hooks").join(hook), format!("#!/bin/sh\n{run}\n")).expect("written");
        fs::set_permissions(git.join("hooks").join(hook), fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    // Each object of the commit is replaced by another one.
    let (good, lie) = (place.repo.blob(b"true"), place.repo.blob(b"a lie"));
    fs::create_dir_all(git.join("refs/replace")).expect("a directory");
    fs::write(git.join("refs/replace").join(good), format!("{lie}\n")).expect("written");
    fs::create_dir_all(git.join("info")).expect("a directory");
    fs::write(git.join("info/attributes"), "* filter=evil export-ignore\n").expect("written");

    assert_eq!(place.recipe(&command("mkdir out; cp a b out")).key(), expected.key());
    let built = place.build(&command("mkdir out; cp a b out")).built();
    let text = |name: &str| fs::read_to_string(built.output.join(name)).expect("built");
    assert_eq!((text("a"), text("b")), ("true".to_owned(), "two".to_owned()));
    assert!(!canary.exists(), "something ran");
}

#[test]
fn a_commit_that_does_not_hold_all_of_itself_is_refused_before_anything_runs() {
    let place = place(&[("a", "1")]);
    let head = place.repo.head_commit().expect("a commit");
    let modules = place.repo.blob(b"[submodule \"x\"]\n\tpath = x\n\turl = ext::touch /nowhere\n");
    let blob = place.repo.blob(b"1");
    place
        .repo
        .commit_raw(&place.repo.raw_tree(&[entry("100644", b".gitmodules", &modules), entry("160000", b"x", &head)]), "module");
    assert_eq!(place.refused_early(&command(LIST)), "x is a submodule; df builds only what the commit itself holds");
    place.repo.commit_raw(&place.repo.raw_tree(&[entry("100644", b".Git", &blob)]), "git");
    let expected = "the commit holds .Git, which git or another file system would take for .git";
    assert_eq!(place.refused_early(&command(LIST)), expected);
    for target in ["/etc/passwd", "../../../etc/passwd", "a/../../x"] {
        let target = place.repo.blob(target.as_bytes());
        place.repo.commit_raw(&place.repo.raw_tree(&[entry("120000", b"out", &target)]), "link");
        let refusal = place.refused_early(&command(LIST));
        assert!(refusal.starts_with("the link out leaves the source"), "{refusal}");
    }
}

fn entry<'a>(mode: &'a str, name: &'a [u8], oid: &'a str) -> RawEntry<'a> {
    RawEntry { mode, name, oid }
}

fn lock(own: &str, serde: &str) -> String {
    format!(
        "version = 4\n\n[[package]]\nname = \"own\"\nversion = \"{own}\"\n\n\
         [[package]]\nname = \"serde\"\nversion = \"{serde}\"\nsource = \"registry+x\"\n"
    )
}

#[test]
fn a_build_says_which_dependencies_and_how_many_files_are_new() {
    let place = place(&[("Cargo.lock", &lock("0.1.0", "1.0.228")), ("src/a.rs", "1"), ("df.yaml", "1")]);
    assert_eq!(place.why(&command(LIST)), None, "never built here");
    drop(place.build(&command(LIST)).built());
    assert_eq!(place.why(&command(LIST)), Some(vec![]));
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        place.repo.commit(files, "next");
        assert_eq!(place.why(&command(LIST)).expect("built before"), expected);
    };
    check(&[("Cargo.lock", &lock("0.2.0", "1.0.228"))], &["1 source file"]);
    check(
        &[("Cargo.lock", &lock("0.1.0", "1.0.229")), ("src/a.rs", "2"), ("src/b.rs", "1"), ("df.yaml", "2")],
        &["Cargo.lock: serde 1.0.228 -> 1.0.229", "2 source files"],
    );
    drop(place.build(&command(LIST)).built());
    assert_eq!(place.why(&command("mkdir out; : > out/x")).expect("built before"), ["the build section of df.yaml changed"]);
}

#[test]
fn tools_are_named_by_version_and_content() {
    let place = place(&[("a", "1")]);
    let recipe = place.recipe(&command(LIST));
    for (tool, needed) in [("rustc", true), ("cargo", true), ("cc", true), ("ld", false), ("libc", true)] {
        let Some(text) = recipe.toolchain.get(tool) else {
            assert!(!needed, "{tool} is missing: {:?}", recipe.toolchain);
            continue;
        };
        let (version, digest) = text.rsplit_once(" #").unwrap_or_else(|| panic!("{tool}: {text}"));
        assert!(version.contains(|c: char| c.is_ascii_digit()) && !version.contains('/'), "{tool}: {text}");
        assert!(digest.len() == 12 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{tool}: {text}");
    }
    assert!(Path::new(&recipe.environment["HOME"]).is_absolute());
    let strict = BuildSection { sandbox: Sandbox::Strict, ..command(LIST) };
    assert_eq!(place.recipe(&strict).environment["HOME"], "/df/home");
}
