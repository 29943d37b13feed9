//! `df start`, `df stop`, `df restart`: the executable on the nodes.

mod halt;

use std::collections::BTreeMap;

use df_core::{AppName, Release};
use df_fleet::message::{Reply, Request, RunState, Survey};
use df_fleet::{NodeError, Reached, going_back};

use crate::across::{self, Intent, Work, current_of, state_of};
use crate::args;
use crate::commands::rollback;
use crate::event::Event;
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::{self, Failure};
use crate::output::Output;
use crate::rolling::{self, Orders};
use crate::session::Session;

/// Starts what `current` says.
pub fn start(session: &Session) -> Result<Exit, Failure> {
    let app = session.app().clone();
    let silence = rollback::silence(session);
    let intent = |survey: &Survey| match (current_of(survey, &app), serving(survey, &app)) {
        (0, _) => Intent { action: "nothing".into(), reason: "no version was ever deployed there".into(), changes: false },
        (n, Some(_)) => Intent { action: "nothing".into(), reason: format!("generation {n} runs already"), changes: false },
        (n, None) => Intent { action: format!("start generation {n}"), reason: "it does not run".into(), changes: true },
    };
    across::each(session, "start", intent, |work: Work| async move {
        let Work { label: node, app, mut reached, output } = work;
        let before = serving(&reached.survey, &app);
        let request = Request::Start { app: app.clone(), listen: reached.connection.node.listen() };
        let reply = reached.connection.ask_with(&request, silence, &mut |_| {}).await?;
        reached.connection.close().await;
        let Reply::Serving(now) = reply else { return Err(NodeError::Answer) };
        match before {
            Some(pid) if Some(pid) == now.pid => output.note(format!("  {node:<16} generation {} runs already", now.generation)),
            _ => output.result(&Event::Started { node, app, generation: now.generation, pid: now.pid }),
        }
        Ok(NodeEnd::Done)
    })
}

/// Stops the serving version, or every version.
pub fn stop(args: &args::Stop, session: &Session) -> Result<Exit, Failure> {
    let app = session.app().clone();
    let (all, now) = (args.all, args.now);
    let silence = rollback::silence(session);
    let intent = |survey: &Survey| {
        let running = state_of(survey, &app).map(|state| state.running.iter().filter(|r| all || r.state == RunState::Serving));
        let numbers: Vec<String> = running.into_iter().flatten().map(|r| r.generation.to_string()).collect();
        match numbers.as_slice() {
            [] => Intent { action: "nothing".into(), reason: "nothing runs".into(), changes: false },
            some => Intent { action: format!("stop generation {}", some.join(" ")), reason: String::new(), changes: true },
        }
    };
    if session.is_dry_run() {
        return across::plan(session, "stop", |_, survey| intent(survey));
    }
    // Who says now waits for nobody, also not for whoever has the node's lock.
    let crew = if now { halt::reach(session, all)? } else { across::reach(session, "stop", true)? };
    let mut ends = crew.ends;
    ends.extend(across::run(session, "stop", crew.reached, move |work: Work| async move {
        let Work { label: node, app, mut reached, output } = work;
        let request = Request::Stop { app: app.clone(), all, now, again: false };
        let reply = reached.connection.ask_with(&request, silence, &mut |_| {}).await?;
        reached.connection.close().await;
        let Reply::Stopped { stopped } = reply else { return Err(NodeError::Answer) };
        tell_stopped(&node, &app, stopped, &output);
        Ok(NodeEnd::Done)
    }));
    if !now && ends.contains(&NodeEnd::Locked) {
        session
            .output()
            .note("  df stop --now waits for no deploy that is not confirmed yet, and for no program that takes its time to end");
    }
    Ok(of_nodes(&ends))
}

fn tell_stopped(node: &str, app: &AppName, stopped: Vec<(u64, i32)>, output: &Output) {
    if stopped.is_empty() {
        output.note(format!("  {node:<16} nothing runs"));
    }
    for (generation, pid) in stopped {
        output.result(&Event::Stopped { node: node.to_owned(), app: app.clone(), generation, pid: Some(pid) });
    }
}

/// Starts the serving version anew beside itself, as a generation of its own, and switches to the new process.
///
/// The release is the one that the node recorded, so nothing is needed here but df.yaml.
pub fn restart(session: &Session) -> Result<Exit, Failure> {
    let app = session.app();
    if session.is_dry_run() {
        return across::plan(session, "restart", |_, survey| match current_of(survey, app) {
            0 => Intent { action: "nothing".into(), reason: "no version was ever deployed there".into(), changes: false },
            n => Intent { action: format!("restart generation {n}"), reason: String::new(), changes: true },
        });
    }
    let crew = across::reach(session, "restart", true)?;
    let mut ends = crew.ends;
    let jobs = crew.reached.into_iter().map(|mut reached| {
        let app = app.clone();
        async move {
            let recorded = recorded(&mut reached, &app).await;
            (reached, recorded)
        }
    });
    let (mut there, mut releases) = (vec![], BTreeMap::new());
    for (reached, recorded) in session.call.block_on(across::all(jobs.collect(), session.parallel())) {
        let node = reached.connection.node.label();
        match recorded {
            Ok(release) => {
                releases.extend(release.map(|release| (node, release)));
                there.push(reached);
            }
            Err(error) => {
                session.output().error(&failure::of_node(&node, "restart", &error));
                ends.push(failure::end_of(&error));
            }
        }
    }
    let order = rollback::Order::new(session, "restart");
    ends.extend(across::run(session, "restart", there, |work: Work| {
        let orders = releases.get(&work.label).map(|release| Orders::new(session, release, "restart"));
        let order = order.clone();
        async move {
            match orders {
                Some(orders) => anew(work, &orders).await,
                None => rollback::start_again(work, &order).await,
            }
        }
    }));
    Ok(of_nodes(&ends))
}

/// Returns the release that runs on a node, as the node recorded it; none where nothing runs.
async fn recorded(reached: &mut Reached, app: &AppName) -> Result<Option<Release>, NodeError> {
    let current = state_of(&reached.survey, app).and_then(going_back::serving);
    let Some(id) = current.filter(|_| serving(&reached.survey, app).is_some()).map(|g| g.release) else { return Ok(None) };
    match reached.connection.ask(&Request::Release { app: app.clone(), release: id }).await? {
        Reply::Release { release, .. } => {
            let release = Release::decode(release.as_bytes()).ok().filter(|release| release.id() == id);
            release.map(Some).ok_or(NodeError::Answer)
        }
        _ => Err(NodeError::Answer),
    }
}

async fn anew(work: Work, orders: &Orders) -> Result<NodeEnd, NodeError> {
    let Work { label: node, app, reached, output } = work;
    let from = current_of(&reached.survey, &app);
    let (reached, ended) = rolling::activate(reached, orders, from, output.clone()).await;
    reached.connection.close().await;
    let generation = ended.map_err(|stuck| stuck.error)?;
    // The new process was told of when it started; scripts need not hear it twice.
    output.table(&[], &[format!("  {node:<16} generation {generation} serves, {} by a new process", orders.commit().short())]);
    Ok(NodeEnd::Done)
}

/// Returns the process that serves.
pub fn serving(survey: &Survey, app: &AppName) -> Option<i32> {
    let state = state_of(survey, app)?;
    state.running.iter().find(|r| r.generation == state.current && r.state == RunState::Serving).map(|r| r.pid)
}
