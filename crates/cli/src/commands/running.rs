//! `df start`, `df stop`, `df restart`: the executable on the nodes.

use df_core::AppName;
use df_fleet::NodeError;
use df_fleet::message::{Reply, Request, RollbackTarget, RunState, Survey};

use crate::across::{self, Intent, Work, current_of, state_of};
use crate::args;
use crate::commands::rollback;
use crate::event::Event;
use crate::exit::{Exit, NodeEnd};
use crate::failure::Failure;
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

/// Starts the serving version anew beside itself and switches to the new process: a rollback to where it is.
pub fn restart(session: &Session) -> Result<Exit, Failure> {
    let app = session.app().clone();
    let order = rollback::Order::new(session, "restart");
    let intent = |survey: &Survey| match current_of(survey, &app) {
        0 => Intent { action: "nothing".into(), reason: "no version was ever deployed there".into(), changes: false },
        n => Intent { action: format!("restart generation {n}"), reason: String::new(), changes: true },
    };
    across::each(session, "restart", intent, move |work: Work| {
        let current = current_of(&work.reached.survey, &work.app);
        let order = order.clone();
        async move {
            if serving(&work.reached.survey, &work.app).is_none() {
                return rollback::start_again(work, &order).await;
            }
            rollback::perform(work, Some(RollbackTarget::Generation(current)), &order).await
        }
    })
}

/// Returns the process that serves.
pub fn serving(survey: &Survey, app: &AppName) -> Option<i32> {
    let state = state_of(survey, app)?;
    state.running.iter().find(|r| r.generation == state.current && r.state == RunState::Serving).map(|r| r.pid)
}
