//! A repository, a cache beside it, and sections of df.yaml to build it by.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use df_build::{BuildError, BuildEvent, Builder, Built, Commit, Repository};
use df_core::name::PathText;
use df_core::spec::{BuildSection, BuildTool, CargoBuild, Relocatable, Sandbox};
use df_core::{AppName, Recipe};
use df_testkit::Repo;

pub struct Place {
    pub dir: tempfile::TempDir,
    pub repo: Repo,
}

/// Makes a repository of one commit.
pub fn place(files: &[(&str, &str)]) -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = Repo::new(&dir.path().join("repo"));
    repo.commit(files, "one");
    Place { dir, repo }
}

impl Place {
    pub fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    pub fn builder(&self) -> Builder {
        Builder::new(&self.cache(), AppName::new("app").expect("a name")).expect("a builder")
    }

    pub fn head(&self) -> (Repository, Commit) {
        let repository = Repository::open(self.repo.dir()).expect("a repository");
        let commit = repository.resolve("HEAD").expect("a commit");
        (repository, commit)
    }

    pub fn build(&self, section: &BuildSection) -> Outcome {
        self.build_in(&self.builder(), section)
    }

    pub fn build_in(&self, builder: &Builder, section: &BuildSection) -> Outcome {
        let ((repository, commit), mut events) = (self.head(), vec![]);
        let result = builder.build(&repository, &commit, section, &mut |event| events.push(event), &AtomicBool::new(false));
        Outcome { result, events }
    }

    pub fn build_from_nothing(&self, section: &BuildSection) -> Outcome {
        let ((repository, commit), mut events) = (self.head(), vec![]);
        let (mut tell, never) = (|event| events.push(event), AtomicBool::new(false));
        let result = self.builder().build_from_nothing(&repository, &commit, section, &mut tell, &never);
        Outcome { result, events }
    }

    pub fn recipe(&self, section: &BuildSection) -> Recipe {
        self.recipe_by(&self.builder(), section)
    }

    pub fn recipe_by(&self, builder: &Builder, section: &BuildSection) -> Recipe {
        let (repository, commit) = self.head();
        builder.recipe_of(&repository, &commit, section).expect("a recipe")
    }
}

/// How a build ended, and what it told.
pub struct Outcome {
    pub result: Result<Built, BuildError>,
    pub events: Vec<BuildEvent>,
}

impl Outcome {
    #[track_caller]
    pub fn built(self) -> Built {
        self.result.unwrap_or_else(|error| panic!("the build failed: {}", whole(&error)))
    }

    #[track_caller]
    pub fn refusal(self) -> String {
        whole(&self.result.expect_err("the build is refused"))
    }

    /// What was compiled in a phase.
    pub fn compiled(&self, phase: &str) -> Vec<String> {
        let (mut now, mut names) = ("", vec![]);
        for event in &self.events {
            match event {
                BuildEvent::Phase(phase) => now = phase,
                BuildEvent::Compiled { name, done, total } if now == phase => {
                    assert!(done <= total, "{event:?}");
                    names.push(name.clone());
                }
                _ => {}
            }
        }
        names.sort();
        names
    }
}

fn whole(error: &BuildError) -> String {
    match error {
        BuildError::Failed { lines, .. } => format!("{error}\n{}", lines.join("\n")),
        _ => error.to_string(),
    }
}

pub fn path(text: &str) -> PathText {
    PathText::new(text).expect("a path")
}

/// What builds with the rights of who runs the tests; images that hold paths of this machine are only told.
pub fn off(tool: BuildTool) -> BuildSection {
    BuildSection {
        tool,
        include: [].into(),
        outside_links: vec![],
        relocatable: Relocatable::Warn,
        sandbox: Sandbox::Off,
        fetch: vec![],
        is_static: false,
    }
}

/// What builds in a room.
pub fn strict(tool: BuildTool) -> BuildSection {
    BuildSection { relocatable: Relocatable::Required, sandbox: Sandbox::Strict, ..off(tool) }
}

pub fn command(line: &str) -> BuildTool {
    BuildTool::Command { command: line.into(), output: path("out") }
}

pub fn cargo() -> BuildTool {
    BuildTool::Cargo(CargoBuild { profile: "release".into(), default_features: true, ..CargoBuild::default() })
}

/// Returns what a program prints.
pub fn said(program: &Path) -> String {
    let output = Command::new(program).output().expect("the program runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Returns the bytes of a program that was built.
pub fn bytes(built: &Built, program: &str) -> Vec<u8> {
    fs::read(built.output.join("bin").join(program)).expect("the program")
}
