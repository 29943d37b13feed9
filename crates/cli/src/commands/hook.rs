//! `df hook install`, and what the hook does when git calls it: build, persist when df.yaml names a cache elsewhere, deploy when it was told to.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::args;
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::hook::{self, HookError, Kind, Orders, Place};
use crate::name;
use crate::session::{Call, Session};

/// What git says to `post-receive` at most: a push of a hundred thousand branches.
const LINES_LEN: u64 = 16 << 20;
/// Set, a hook works in the foreground.
const FOREGROUND: &str = "DF_NO_BACKGROUND";

/// Writes the hook.
pub fn install(args: &args::HookInstall, call: Call) -> Result<Exit, Failure> {
    let place = hook::find(&call.here).map_err(|error| failed(&error))?;
    needs_config(&place, &call)?;
    let session = call.session()?;
    let orders = orders(args, &place, &session)?;
    if session.is_dry_run() {
        if hook::is_ours(&place).map_err(|error| failed(&error))? == Some(false) {
            return Err(failed(&HookError::Exists { file: place.file.clone(), call: String::new() }));
        }
        let action = format!("write {}", place.file.display());
        let event = Event::Planned { node: None, action, bytes: None, requests: Some(0), reason: String::new(), changes: true };
        session.output().result(&event);
        return Ok(session.planned(true));
    }
    hook::install(&place, &orders).map_err(|error| failed(&error))?;
    let line = format!(
        "wrote {}: {}",
        df_core::text::escape(place.file.display().to_string().as_bytes()),
        words(&place, &orders, &session)
    );
    session.output().table(&[Event::Note { message: line.clone() }], &[line]);
    Ok(Exit::Done)
}

/// Does what a hook does. Git ignores how it ends, but whoever pushed reads what it says.
pub fn called(args: &args::Hooked, session: &Session) -> Result<Exit, Failure> {
    match args.kind {
        Kind::PostReceive => received(args, session),
        Kind::PostCommit => committed(args, session),
    }
}

fn received(args: &args::Hooked, session: &Session) -> Result<Exit, Failure> {
    let mut lines = String::new();
    let read = std::io::stdin().take(LINES_LEN).read_to_string(&mut lines);
    read.map_err(|error| Failure::here("hook", &error))?;
    let branch = match &args.branch {
        Some(branch) => branch.clone(),
        None => hook::branch(&session.top).unwrap_or_else(|| "main".to_owned()),
    };
    let called = hook::pushed(&lines);
    let Some(commit) = hook::wanted(&called, &branch) else {
        session.output().note(format!("nothing was pushed to {branch}, so there is nothing to build"));
        return Ok(Exit::Done);
    };
    // One push after the other: of two deploys at once, one finds the nodes locked, and its commit would never serve.
    let _turn = turn(session)?;
    if hook::tip(&session.top, &branch).as_deref() != Some(commit) {
        session.output().note(format!("{branch} is another commit by now, so there is nothing left to do for {}", &commit[..12]));
        return Ok(Exit::Done);
    }
    work(session, commit, args.deploy)
}

fn committed(args: &args::Hooked, session: &Session) -> Result<Exit, Failure> {
    if args.branch.is_some() && args.branch != hook::branch(&session.top) {
        return Ok(Exit::Done);
    }
    let foreground = std::env::var_os(FOREGROUND).is_some_and(|set| !set.is_empty() && set != "0");
    if foreground || args.detached {
        // One after the other; whoever waited and was overtaken by another commit has nothing left to do.
        let head = hook::head(&session.top);
        let _turn = turn(session)?;
        return match head {
            Some(commit) if hook::head(&session.top).as_ref() == Some(&commit) => work(session, &commit, args.deploy),
            _ => Ok(Exit::Done),
        };
    }
    detach(args, session)
}

/// Leaves the work to a child that nobody waits for: a commit must not take minutes.
fn detach(args: &args::Hooked, session: &Session) -> Result<Exit, Failure> {
    let log = session.state.join("hook.log");
    let begin = || -> std::io::Result<()> {
        std::fs::create_dir_all(&session.state)?;
        let (out, err) = (File::create(&log)?, OpenOptions::new().append(true).open(&log)?);
        let mut child = df(session)?;
        child.args(["__hook", Kind::PostCommit.name(), "--detached"]);
        child.args(args.branch.iter().flat_map(|branch| ["--branch", branch]));
        child.args(args.deploy.then_some("--deploy"));
        child.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn().map(drop)
    };
    begin().map_err(|error| Failure::here("hook", &error).next("df build"))?;
    session.hide_state();
    session.output().note(format!("building in the background; {} says how it goes", log.display()));
    Ok(Exit::Done)
}

/// Builds, persists and deploys a commit, each by df itself: what fails ends it, and says so as it would at a terminal.
fn work(session: &Session, commit: &str, deploy: bool) -> Result<Exit, Failure> {
    let mut steps: Vec<Vec<&str>> = vec![vec!["build", "--commit-hash", commit]];
    if session.config.cache.remote.is_some() {
        steps.push(vec!["cache", "persist"]);
    }
    if deploy {
        steps.push(vec!["deploy", "--yes", "--commit-hash", commit]);
    }
    for step in steps {
        let status = df(session).and_then(|mut df| df.args(&step).stdin(Stdio::null()).status());
        let status = status.map_err(|error| Failure::here("hook", &error).next("df hook install"))?;
        if !status.success() {
            // It said why itself.
            let words: Vec<&str> = step.iter().copied().take_while(|word| !word.starts_with('-')).collect();
            let message = format!("df {} ended with {status}", words.join(" "));
            return Err(Failure::new(Exit::Failed, "hook", message).next(format!("df {}", step.join(" "))));
        }
    }
    Ok(Exit::Done)
}

/// Returns df with the flags of this call, below the same df.yaml.
fn df(session: &Session) -> std::io::Result<Command> {
    let mut df = Command::new(std::env::current_exe()?);
    df.arg("-C").arg(&session.call.here);
    let globals = &session.call.globals;
    if let Some(config) = &globals.config {
        df.arg("--config").arg(config);
    }
    if let Some(state) = &globals.state {
        df.arg("--state").arg(state);
    }
    for name in hook::GIT_VARIABLES {
        df.env_remove(name);
    }
    Ok(df)
}

/// Waits until no other hook works for this df.yaml; whoever waits is told so.
fn turn(session: &Session) -> Result<File, Failure> {
    use rustix::fs::{FlockOperation, flock};
    let take = || {
        std::fs::create_dir_all(&session.state)?;
        let file = File::create(session.state.join("hook.lock"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            session.output().note("another hook is at work; waiting for its end");
            flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok::<_, std::io::Error>(file)
    };
    take().map_err(|error| Failure::here("hook", &error))
}

fn orders(args: &args::HookInstall, place: &Place, session: &Session) -> Result<Orders, Failure> {
    let df = std::env::current_exe().map_err(|error| Failure::here("hook", &error))?;
    let branch = args.branch.as_deref().map(Orders::branch).transpose().map_err(|error| failed(&error))?;
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dir = real(&session.top).strip_prefix(real(&place.top)).map(PathBuf::from).unwrap_or_else(|_| real(&session.top));
    Ok(Orders { df, dir, branch, deploy: args.deploy })
}

/// A bare repository has no files, so the part of df.yaml that is not the commit's must lie in it.
fn needs_config(place: &Place, call: &Call) -> Result<(), Failure> {
    if place.kind == Kind::PostCommit || call.globals.config.is_some() || name::find_config(&call.here).is_some() {
        return Ok(());
    }
    let top = place.top.display();
    let message =
        format!("a bare repository needs a df.yaml of its own, {top}/df.yaml: it says which nodes and caches this machine uses");
    Err(Failure::new(Exit::Usage, "hook", message).next(format!("git -C {top} show HEAD:df.yaml > {top}/df.yaml")))
}

fn words(place: &Place, orders: &Orders, session: &Session) -> String {
    let when = match (place.kind, &orders.branch) {
        (Kind::PostCommit, None) => "each commit".to_owned(),
        (Kind::PostCommit, Some(branch)) => format!("each commit to {branch}"),
        (Kind::PostReceive, None) => "each push to the default branch".to_owned(),
        (Kind::PostReceive, Some(branch)) => format!("each push to {branch}"),
    };
    let persist = if session.config.cache.remote.is_some() { ", persisted" } else { "" };
    let deploy = if orders.deploy { " and deployed" } else { "" };
    format!("{when} is built{persist}{deploy}")
}

fn failed(error: &HookError) -> Failure {
    match error {
        HookError::NoRepository { .. } => Failure::usage("hook", error).next("git init"),
        HookError::Exists { .. } | HookError::Branch { .. } => Failure::usage("hook", error),
        HookError::Shared { .. } => Failure::usage("hook", error).next("git config --show-origin core.hooksPath"),
        HookError::Git { .. } => Failure::here("hook", error).next("df doctor"),
        HookError::Io { .. } => Failure::here("hook", error),
    }
}
