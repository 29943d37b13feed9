//! Servers in other languages, from other houses: each is deployed twice and taken back while clients ask, exactly as the page for people who write services shows it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use df_testkit::load::{Load, Plan};
use df_testkit::repo::Repo;
use df_testkit::tree::{Entry, Kind, Tree};

use super::package::fetched;
use crate::support::{World, shared};

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn gunicorn_is_upgraded_twice_and_rolled_back_under_load() {
    let library = |gunicorn: &str| {
        let mut tree = Tree::default();
        for (name, number) in [("gunicorn", gunicorn), ("packaging", "24.2")] {
            let files = Tree::read(&fetched(name, number)).0.into_iter();
            tree.0.extend(files.map(|(path, entry)| (Path::new("lib").join(path), entry)));
        }
        tree
    };
    check("gunicorn", ["22.0.0", "23.0.0", "23.0.0"].map(library));
}

#[test]
fn node_is_upgraded_twice_and_rolled_back_under_load() {
    check("Node.js", Default::default());
}

#[test]
fn nginx_is_upgraded_twice_and_rolled_back_under_load() {
    check("nginx", Default::default());
}

/// Deploys what the page shows under this heading, with more files for each of three versions.
#[track_caller]
fn check(name: &str, more: [Tree; 3]) {
    let service = Service::shown(name);
    let (repo, commits) = service.commit(more);
    let world = World::of(&repo, 1);
    world.deploy(&commits[0]);
    let plan = Plan { n_workers: 2, n_kept: 2, per_second: Some(200), deadline: DEADLINE, ..Plan::to(world.at(1), "/") };
    let load = Load::run(plan);
    load.wait_for_body(&commits[0], DEADLINE);
    for commit in &commits[1..] {
        world.deploy(commit);
        load.wait_for_body(commit, DEADLINE);
    }
    world.df(["rollback"]).ok();
    load.wait_for_body(&commits[1], DEADLINE);
    let report = load.finish().expect_no_loss();
    println!(
        "{name}: {} requests over 3 switches, 0 lost, the longest took {} ms; {} kept connections were closed between two questions",
        report.requests, report.worst_ms, report.n_closed
    );
    assert_eq!(report.bodies.len(), 3, "clients saw the three versions and nothing else: {:?}", report.bodies);
    world.expect_serving(&commits[1]);
    world.df(["stop"]).ok();
}

/// What the page shows of one program.
struct Service {
    name: String,
    df_yaml: String,
    files: Tree,
}

impl Service {
    fn shown(name: &str) -> Self {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/writing-a-service.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let section = page.split("\n### ").find_map(|section| section.strip_prefix(&format!("{name}\n"))).expect("its section");
        let section = section.split("\n## ").next().expect("at least one part");
        let mut blocks = section.split("\n```");
        let (mut df_yaml, mut files) = (String::new(), Tree::default());
        // Words and code in turn; the words before a file end with its name.
        while let (Some(words), Some(code)) = (blocks.next(), blocks.next()) {
            let (language, text) = code.split_once('\n').expect("a language before the code");
            let path = words.trim_end().strip_suffix("`:").and_then(|words| words.rsplit('`').next());
            match (language, path) {
                ("yaml", _) => text.clone_into(&mut df_yaml),
                (_, Some(path)) => _ = files.0.insert(path.into(), file(path, text)),
                _ => panic!("{name}: a file without a name: {text}"),
            }
        }
        assert!(!df_yaml.is_empty() && !files.0.is_empty(), "{name}: {df_yaml}");
        Self { name: name.to_lowercase().replace('.', "-"), df_yaml, files }
    }

    /// Commits three versions of it to a new repository.
    fn commit(&self, more: [Tree; 3]) -> (PathBuf, Vec<String>) {
        let dir = shared().join("real/services").join(&self.name);
        let _ = std::fs::remove_dir_all(&dir);
        let repo = Repo::new(&dir);
        let df_yaml = format!("app: {}\n{}\nrollout: {{ soak: 0s }}\n", self.name, self.df_yaml);
        let commits = more.into_iter().enumerate().map(|(n, mut tree)| {
            tree.0.insert("df.yaml".into(), file("df.yaml", &df_yaml));
            tree.0.extend(self.files.0.clone());
            for entry in tree.0.values_mut() {
                if let Ok(text) = std::str::from_utf8(&entry.content)
                    && text.contains("Hello from ")
                {
                    entry.content = text.replace("Hello from ", &format!("Hello {n} from ")).into_bytes();
                }
            }
            let whole = tempfile::tempdir_in(shared()).expect("a directory");
            tree.write(whole.path());
            repo.commit_tree(whole.path(), &format!("{n}"))
        });
        let commits = commits.collect();
        (dir, commits)
    }
}

fn file(path: &str, text: &str) -> Entry {
    let kind = if path.starts_with("bin/") { Kind::Executable } else { Kind::File };
    Entry { kind, content: format!("{}\n", text.trim_end()).into_bytes() }
}
