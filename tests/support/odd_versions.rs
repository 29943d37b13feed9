//! Versions of a server that is bad on purpose: one program, compiled once, and a commit for each way to be bad.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

use df_testkit::process::Run;
use df_testkit::repo::Repo;

use super::{PORT, df, shared};

/// A repository of the server.
pub struct Odd {
    dir: PathBuf,
    repo: Mutex<Repo>,
    good: String,
}

/// Returns the shared repository.
pub fn odd() -> &'static Odd {
    static ODD: OnceLock<Odd> = OnceLock::new();
    ODD.get_or_init(|| {
        let dir = shared().join("odd");
        let _ = std::fs::remove_dir_all(&dir);
        let repo = Repo::new(&dir.join("repo"));
        compile(&dir.join("odd"));
        let odd = Odd { dir, repo: Mutex::new(repo), good: String::new() };
        let good = odd.commit("good", "", "");
        Odd { good, ..odd }
    })
}

impl Odd {
    /// Returns where it is.
    pub fn repo(&self) -> &Path {
        static REPO: OnceLock<PathBuf> = OnceLock::new();
        REPO.get_or_init(|| self.dir.join("repo"))
    }

    /// Returns the version that is well.
    pub fn good(&self) -> &str {
        &self.good
    }

    /// Returns a version that is bad in this way.
    pub fn bad(&self, how: &str) -> String {
        let run = match how {
            "eats-memory" => "limits: { memory: 256M }",
            "closes-later" => "require_zero_loss: true",
            _ => "",
        };
        self.commit(how, run, "")
    }

    /// Makes a version that runs so, with more lines in `run` and more arguments, and builds it.
    pub fn commit(&self, mode: &str, run: &str, args: &str) -> String {
        let repo = self.repo.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let files = self.dir.join("files");
        let _ = std::fs::remove_dir_all(&files);
        std::fs::create_dir_all(files.join("bin")).expect("made");
        match mode {
            "no-program" => std::fs::write(files.join("bin/other"), "nothing").expect("written"),
            "no-format" => {
                std::fs::write(files.join("bin/odd"), "this is no program\n").expect("written");
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(files.join("bin/odd"), mode).expect("set");
            }
            _ => drop(std::fs::copy(self.dir.join("odd"), files.join("bin/odd")).expect("copied")),
        }
        // One that ends, or answers as it should, has time for it on a busy machine; the others are waited for in vain.
        let ready = match mode {
            "hangs" => "60s",
            "good" | "told" | "waits" | "binds" | "eats-memory" | "fills-log" | "forks-and-leaves" => "10s",
            mode if mode.contains("later") || mode.contains("dies") || mode.starts_with("exit") => "10s",
            _ => "2s",
        };
        let yaml = format!(
            "app: odd\nbuild: {{ include: {{ bin: bin }} }}\nrun:\n  exec: bin/odd\n  args: [{mode}{args}]\n  ports: {{ http: {PORT} }}\n  \
             ready: {ready}\n  drain: 5s\n  {run}\nverify:\n  - http: {{ port: http, path: /health, status: 200 }}\nrollout: {{ soak: 0s }}\n"
        );
        std::fs::write(files.join("df.yaml"), yaml).expect("written");
        let commit = repo.commit_tree(&files, mode);
        df(repo.dir(), &shared().join("odd/state")).args(["build", "--commit-hash", &commit]).ok();
        commit
    }

    /// Returns a df.yaml with which versions have to stay well for five seconds.
    pub fn soaking(&self) -> String {
        let path = self.dir.join("soaking.yaml");
        std::fs::write(&path, "app: odd\nbuild: { include: { bin: bin } }\nrollout: { soak: 5s }\n").expect("written");
        path.display().to_string()
    }
}

fn compile(program: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/odd.rs");
    Run::new("rustc").args(["--edition", "2024", "-O", "-C", "strip=symbols", "-o"]).arg(program).arg(source).ok();
}
