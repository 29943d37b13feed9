//! `df start`, `df stop`, `df restart`: the executable on the nodes.

use std::time::Duration;

use df_core::AppName;
use df_fleet::NodeError;
use df_fleet::message::{Reply, Request, RunState, Survey};

use crate::across::{self, Intent, Work, current_of, state_of};
use crate::args;
use crate::commands::rollback;
use crate::event::Event;
use crate::exit::{Exit, NodeEnd};
use crate::failure::Failure;
use crate::rolling::{self, Orders};
use crate::session::Session;
use crate::store::Shelf;

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
    across::each(session, "stop", intent, move |work: Work| async move {
        let Work { label: node, app, mut reached, output } = work;
        let request = Request::Stop { app: app.clone(), all, now };
        let reply = reached.connection.ask_with(&request, silence, &mut |_| {}).await?;
        reached.connection.close().await;
        let Reply::Stopped { stopped } = reply else { return Err(NodeError::Answer) };
        if stopped.is_empty() {
            output.note(format!("  {node:<16} nothing runs"));
        }
        for (generation, pid) in stopped {
            output.result(&Event::Stopped { node: node.clone(), app: app.clone(), generation, pid: Some(pid) });
        }
        Ok(NodeEnd::Done)
    })
}

/// Starts the serving version anew beside itself, as a generation of its own, and switches to the new process.
///
/// That takes the release, which the cache here has; without it the version is stopped and started, which clients notice.
pub fn restart(session: &Session) -> Result<Exit, Failure> {
    let app = session.app().clone();
    let releases = Shelf::open(session)?.releases(&app)?;
    let (order, silence) = (rollback::Order::new(session, "restart"), rollback::silence(session));
    let intent = |survey: &Survey| match current_of(survey, &app) {
        0 => Intent { action: "nothing".into(), reason: "no version was ever deployed there".into(), changes: false },
        n => Intent { action: format!("restart generation {n}"), reason: String::new(), changes: true },
    };
    across::each(session, "restart", intent, |work: Work| {
        let current = state_of(&work.reached.survey, &app).and_then(|s| s.generations.iter().find(|g| g.number == s.current));
        let release = current.and_then(|current| releases.iter().find(|stored| stored.id == current.release));
        let orders = release.map(|stored| Orders::new(session, &stored.release, "restart"));
        let order = order.clone();
        async move {
            match orders {
                _ if serving(&work.reached.survey, &work.app).is_none() => rollback::start_again(work, &order).await,
                Some(orders) => anew(work, &orders).await,
                None => {
                    work.output
                        .note(format!("  {:<16} its release is not in the cache here: stopping, then starting", work.label));
                    stop_and_start(work, &order, silence).await
                }
            }
        }
    })
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

async fn stop_and_start(mut work: Work, order: &rollback::Order, silence: Duration) -> Result<NodeEnd, NodeError> {
    let request = Request::Stop { app: work.app.clone(), all: false, now: false };
    work.reached.connection.ask_with(&request, silence, &mut |_| {}).await?;
    rollback::start_again(work, order).await
}

/// Returns the process that serves.
pub fn serving(survey: &Survey, app: &AppName) -> Option<i32> {
    let state = state_of(survey, app)?;
    state.running.iter().find(|r| r.generation == state.current && r.state == RunState::Serving).map(|r| r.pid)
}
