use df_core::spec::{BuildTool, Sandbox};

use super::*;
use crate::config::Config;

fn package(name: &str, bins: &[&str], examples: &[&str], links_library: bool) -> Package {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Package {
        name: name.to_owned(),
        at_top: false,
        bins: names(bins),
        examples: names(examples),
        default_run: None,
        links_library,
    }
}

fn facts(name: &str, project: Project) -> Facts {
    Facts { top: "/r".into(), exclude: "/r/.git/info/exclude".into(), name: name.to_owned(), project }
}

#[track_caller]
fn parsed(facts: &Facts) -> Config {
    let text = text(facts);
    let config = Config::parse(text.as_bytes(), "df.yaml").unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(config.build.sandbox, Sandbox::Strict);
    config
}

#[test]
fn what_is_written_for_any_kind_of_project_parses() {
    let file = |path: &str| df_core::name::PathText::new(path).expect("a path");
    let awkward = ["no", "a b: c", "#x", "ü", "{", "*a", "'", "\"", "-"].map(file).to_vec();
    let projects = [
        Project::Cargo(vec![]),
        Project::Cargo(vec![package("lib", &[], &[], false)]),
        Project::Cargo(vec![package("a", &["a"], &[], false), package("b", &["b", "c"], &["d"], true)]),
        Project::Cargo(vec![package("greeter", &[], &["greeter"], true)]),
        Project::Make,
        Project::Npm { builds: true },
        Project::Npm { builds: false },
        Project::Static(vec![file("index.html"), file("img")]),
        Project::Static(awkward.clone()),
        Project::Unknown,
    ];
    for project in projects {
        for name in ["greeter", "My Site!", "no", "", "é", "-", "a\nb", "1"] {
            parsed(&facts(name, project.clone()));
        }
    }
    let config = parsed(&facts("x", Project::Static(awkward.clone())));
    assert_eq!(config.build.include.len(), awkward.len());
}

#[test]
fn a_cargo_project_is_run_by_its_main_program() {
    let mut main = package("web", &["admin", "web"], &[], true);
    main.at_top = true;
    let config = parsed(&facts("dir", Project::Cargo(vec![package("tool", &["tool"], &[], false), main])));
    assert_eq!(config.app.as_str(), "web");
    let BuildTool::Cargo(cargo) = config.build.tool else { panic!("no cargo build") };
    assert_eq!((cargo.package.as_deref(), cargo.bins), (Some("web"), vec!["admin".to_owned(), "web".to_owned()]));
    let run = config.run.expect("a run section");
    assert_eq!((run.exec.as_str(), run.ports.len(), config.verify.len()), ("bin/web", 1, 1));
}

#[test]
fn what_the_comments_offer_parses_too() {
    for project in [Project::Cargo(vec![package("a", &["a"], &[], false)]), Project::Make] {
        let text = text(&facts("a", project));
        let offered = ["  # args: ", "  # ports: ", "  # handoff: ", "  # exec: "];
        let uncommented: String = text
            .lines()
            .map(|line| match line {
                "# run:" | "# verify:" => format!("{}\n", &line[2..]),
                _ if offered.iter().any(|key| line.starts_with(key)) => format!("  {}\n", &line[4..]),
                _ if line.starts_with("#   - http") => format!("{}\n", &line[2..]),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = Config::parse(uncommented.as_bytes(), "df.yaml").unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
        assert!(config.verify.len() == 1 && config.run.is_some_and(|run| run.ports.len() == 1 && run.args.len() == 2));
    }
}

#[test]
fn a_repository_is_looked_at_and_written_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let top = dir.path().canonicalize().expect("a path");
    assert!(matches!(look(&top), Err(InitError::NoRepository { .. })));
    fs::create_dir_all(top.join(".git")).expect("make .git");
    fs::create_dir_all(top.join("sub")).expect("make a directory");
    assert_eq!(look(&top.join("sub")).expect("facts").project, Project::Unknown);
    fs::create_dir_all(top.join("public")).expect("make a directory");
    fs::write(top.join("public/index.html"), "").expect("write");
    assert!(matches!(look(&top).expect("facts").project, Project::Static(paths) if paths.len() == 1));
    fs::write(top.join("index.html"), "").expect("write");
    assert!(matches!(look(&top).expect("facts").project, Project::Static(paths) if paths.len() == 3));
    fs::write(top.join("package.json"), r#"{"scripts":{"build":"x"}}"#).expect("write");
    assert_eq!(look(&top).expect("facts").project, Project::Npm { builds: true });
    fs::write(top.join("Makefile"), "all:\n").expect("write");
    let facts = look(&top.join("sub")).expect("facts");
    assert_eq!(facts.project, Project::Make);

    let written = write(&facts).expect("written");
    assert_eq!(written, Written { file: top.join("df.yaml"), excluded: true });
    assert_eq!(fs::read_to_string(top.join(".git/info/exclude")).expect("read"), ".df/\n");
    let error = write(&facts).expect_err("it is there already").to_string();
    assert_eq!(error, format!("{} is there already; nothing was changed", top.join("df.yaml").display()));

    fs::remove_file(top.join("df.yaml")).expect("remove");
    assert!(!write(&facts).expect("written").excluded, ".df/ is put once");
    fs::remove_file(top.join("df.yaml")).expect("remove");
    fs::write(top.join(".git/info/exclude"), "*.o").expect("write");
    assert!(write(&facts).expect("written").excluded);
    assert_eq!(fs::read_to_string(top.join(".git/info/exclude")).expect("read"), "*.o\n.df/\n");
}

#[test]
fn a_cargo_workspace_is_asked_what_it_holds() {
    let dir = tempfile::tempdir().expect("a directory");
    let top = dir.path();
    fs::create_dir_all(top.join(".git")).expect("make .git");
    fs::create_dir_all(top.join("src")).expect("make src");
    fs::write(top.join("Cargo.toml"), "[package]\nname = \"web\"\nversion = \"1.0.0\"\nedition = \"2021\"\n").expect("write");
    fs::write(top.join("src/main.rs"), "fn main() {}\n").expect("write");
    let facts = look(top).expect("facts");
    let Project::Cargo(packages) = &facts.project else { panic!("no cargo project") };
    let expected = Package { at_top: true, ..package("web", &["web"], &[], false) };
    assert_eq!(packages, &[expected]);
    assert_eq!(parsed(&facts).run.expect("a run section").exec.as_str(), "bin/web");

    fs::write(top.join("Cargo.toml"), "[package\n").expect("write");
    assert!(matches!(look(top), Err(InitError::Cargo { .. })));
}

#[test]
fn a_linked_working_tree_shares_the_exclude_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let top = dir.path().canonicalize().expect("a path");
    let git = top.join("main/.git/worktrees/w");
    fs::create_dir_all(&git).expect("make .git");
    fs::create_dir_all(top.join("w")).expect("make a directory");
    fs::write(git.join("commondir"), "../..\n").expect("write");
    fs::write(top.join("w/.git"), format!("gitdir: {}\n", git.display())).expect("write");
    write(&look(&top.join("w")).expect("facts")).expect("written");
    assert_eq!(fs::read_to_string(top.join("main/.git/info/exclude")).expect("read"), ".df/\n");
}
