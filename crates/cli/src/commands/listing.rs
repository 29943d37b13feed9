//! `df ls nodes`, `df status`: the nodes, and what serves where.

use df_core::text::shorten;
use df_core::{AppName, Timestamp};
use df_fleet::message::{AppState, Reply, Request, RunState, Survey};
use df_fleet::{Node, Reached};

use crate::across::{self, Work, state_of};
use crate::event::{Event, NodeState};
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::{self, Failure};
use crate::node_event::verified;
use crate::render::{table, units};
use crate::session::{Session, now};

/// Bytes of what a node, or a program, has to say that fit into a line of the table.
const CELL_LEN: usize = 120;
/// Bytes of a program's status that scripts are told; a node of ours sends no more.
const STATUS_LEN: usize = 256;
/// Bytes of why a node has given up that people and scripts are told: how a program ended is its own words.
const GIVEN_UP_LEN: usize = 512;

/// Lists the nodes in the order added, without asking them anything.
pub fn nodes(session: &Session) -> Result<Exit, Failure> {
    let inventory = session.inventory()?;
    let acted_on = df_fleet::context::nodes(&inventory, &session.context()?, &session.call.globals.address, &session.call.here);
    let acted_on = match acted_on {
        Err(error) if session.call.globals.address.is_empty() => {
            session.output().note(format!("the context is out of date: {error}; next: df with --pop"));
            vec![]
        }
        acted_on => acted_on.map_err(|error| Failure::usage("nodes", &error))?,
    };
    // An address that was not added is a node for this one command.
    let shown = if session.call.globals.address.is_empty() { inventory.nodes() } else { &acted_on };
    let row = |node: &Node| {
        let name = node.name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let mark = if acted_on.contains(node) { "yes" } else { "" };
        [
            name,
            node.address.to_string(),
            node.listen().to_string(),
            if node.sudo { "yes".into() } else { String::new() },
            mark.to_owned(),
        ]
    };
    let events: Vec<Event> = shown.iter().map(self::node).collect();
    let rows: Vec<_> = shown.iter().map(row).collect();
    session.output().table(&events, &table::render(["NAME", "ADDRESS", "LISTEN", "SUDO", "CONTEXT"], &rows));
    if shown.is_empty() {
        session.output().note("no nodes yet; next: df add ADDRESS");
    }
    Ok(Exit::Done)
}

/// Shows what serves where, since when, and whether its probes pass.
pub fn status(session: &Session) -> Result<Exit, Failure> {
    let nodes = session.nodes()?;
    let options = session.options()?;
    let app = session.app().clone();
    let reached = session.call.block_on(async {
        tokio::select! {
            reached = df_fleet::survey::all(&nodes, &options, None) => Ok(reached),
            () = session.call.interrupt.pressed() => Err(across::interrupted("status")),
        }
    })?;
    let jobs = reached.into_iter().map(|(node, reached)| {
        let app = app.clone();
        async move {
            match reached {
                Ok(reached) => {
                    let (state, end) = look(node, reached, &app).await;
                    (state, end, None)
                }
                Err(error) => (
                    NodeState { reachable: Some(false), detail: Some(failure::chain(&error)), ..blank(&node) },
                    failure::end_of(&error),
                    Some(error),
                ),
            }
        }
    });
    let looked = session.call.block_on(across::all(jobs.collect(), session.parallel()));
    show(session, &looked.iter().map(|(state, ..)| state.clone()).collect::<Vec<_>>());
    for (state, _, error) in &looked {
        if let Some(words) = next_of_down(state) {
            session.output().note(words);
        }
        if let Some(error) = error {
            session.output().error(&failure::of_node(&word(state), "status", error));
        }
    }
    Ok(of_nodes(&looked.iter().map(|(_, end, _)| *end).collect::<Vec<_>>()))
}

/// Returns the event for a node of the list.
pub fn node(node: &Node) -> Event {
    Event::Node(blank(node))
}

/// Returns what is known of a node that answered.
pub fn state(node: &Node, survey: &Survey, app: &AppName) -> NodeState {
    known(node, app, state_of(survey, app))
}

fn known(node: &Node, app: &AppName, found: Option<&AppState>) -> NodeState {
    let Some(found) = found.filter(|state| state.current > 0) else {
        return NodeState { reachable: Some(true), app: Some(app.clone()), state: Some("none".into()), ..blank(node) };
    };
    let generation = found.generations.iter().find(|g| g.number == found.current);
    let running = found.running.iter().find(|running| running.generation == found.current);
    NodeState {
        reachable: Some(true),
        app: Some(app.clone()),
        generation: Some(found.current),
        image: generation.map(|g| g.image),
        commit: generation.map(|g| g.commit.clone()),
        state: Some(word_of(found).into()),
        since: running.map(|r| r.since).or(generation.map(|g| g.since)),
        detail: found.given_up.as_deref().map(|why| shorten(why, GIVEN_UP_LEN)),
        ports: running.map(|r| r.ports.iter().map(|(name, at)| format!("{name}={at}")).collect()).unwrap_or_default(),
        status: running.map(|r| shorten(&r.status, STATUS_LEN)).filter(|status| !status.is_empty()),
        ..blank(node)
    }
}

/// Writes nodes as a table, and as events.
pub fn show(session: &Session, states: &[NodeState]) {
    let now = now();
    let is_files = |state: &NodeState| session.config.run.is_none() && state.state.as_deref() == Some("stopped");
    let word = |state: &NodeState| if is_files(state) { Some("files".to_owned()) } else { state.state.clone() };
    let states: Vec<_> = states.iter().map(|state| NodeState { state: word(state), ..state.clone() }).collect();
    let rows: Vec<_> = states.iter().map(|state| row(state, now)).collect();
    let events: Vec<Event> = states.iter().cloned().map(Event::Node).collect();
    let heading = ["NODE", "STATE", "GENERATION", "COMMIT", "IMAGE", "SINCE", "HEALTHY", "PORTS"];
    session.output().table(&events, &table::render(heading, &rows));
}

/// Asks a surveyed node whether what serves is well.
pub async fn look(node: Node, mut reached: Reached, app: &AppName) -> (NodeState, NodeEnd) {
    let mut state = state(&node, &reached.survey, app);
    let mut end = NodeEnd::Done;
    match state.state.as_deref() {
        Some("serving" | "stopping") => match reached.connection.ask(&Request::Verify { app: app.clone() }).await {
            Ok(Reply::Verified { generation, probes }) => {
                let failed: Vec<String> = probes.iter().filter(|p| !p.ok).map(|p| format!("{}: {}", p.name, p.detail)).collect();
                let Event::Verified { ok, .. } = verified(String::new(), app.clone(), generation, probes) else {
                    unreachable!("made above")
                };
                state.healthy = Some(ok);
                state.detail = (!ok).then(|| failed.join("; "));
                if !ok {
                    end = NodeEnd::Differs;
                }
            }
            Ok(_) => state.healthy = None,
            Err(error) => {
                state.healthy = Some(false);
                state.detail = Some(failure::chain(&error));
                end = NodeEnd::Differs;
            }
        },
        Some("down") => {
            state.healthy = Some(false);
            end = NodeEnd::Differs;
        }
        _ => {}
    }
    if let Some(lock) = &reached.survey.lock {
        state.detail = Some(format!("{} is at work: {}", lock.who, lock.command));
    }
    reached.connection.close().await;
    (state, end)
}

/// Returns what to do about an application that its node has given up, if it has.
fn next_of_down(state: &NodeState) -> Option<String> {
    let why = state.detail.as_deref().filter(|why| state.state.as_deref() == Some("down") && why.starts_with("given up"))?;
    Some(format!("{}: {why}; next: df logs says why, df start or df repair tries again, df rollback goes back", word(state)))
}

/// Returns what an application does, in one word.
fn word_of(state: &AppState) -> &'static str {
    let serving = state.running.iter().find(|running| running.generation == state.current);
    match serving.map(|running| running.state) {
        // By itself: nobody told it to end.
        Some(RunState::Serving) if serving.is_some_and(|running| running.stopping) => "stopping",
        Some(RunState::Serving) => "serving",
        Some(RunState::Starting | RunState::Trial) => "starting",
        Some(RunState::Warm) => "warm",
        Some(RunState::Draining) => "draining",
        None if state.wanted => "down",
        None => "stopped",
    }
}

fn row(state: &NodeState, now: Timestamp) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let what = match (&state.state, state.reachable) {
        (Some(state), _) => state.clone(),
        (None, Some(false)) => "unreachable".into(),
        (None, _) => "-".into(),
    };
    let healthy = match state.healthy {
        Some(true) => "yes".to_owned(),
        Some(false) => "NO".to_owned(),
        None => "-".to_owned(),
    };
    [
        word(state),
        what,
        or_dash(state.generation.map(|n| n.to_string())),
        or_dash(state.commit.as_ref().map(|c| c.short().to_owned())),
        or_dash(state.image.map(|i| i.short())),
        or_dash(state.since.map(|since| units::age(since, now))),
        healthy,
        match (&state.detail, &state.status) {
            (Some(detail), _) => shorten(detail, CELL_LEN),
            (None, Some(status)) => {
                format!("{} says: {}", state.ports.join(" "), shorten(status, CELL_LEN)).trim_start().to_owned()
            }
            (None, None) => state.ports.join(" "),
        },
    ]
}

fn word(state: &NodeState) -> String {
    state.name.clone().unwrap_or_else(|| state.address.clone())
}

fn blank(node: &Node) -> NodeState {
    NodeState {
        name: node.name.as_ref().map(ToString::to_string),
        address: node.address.to_string(),
        listen: node.listen().to_string(),
        reachable: None,
        app: None,
        generation: None,
        image: None,
        commit: None,
        state: None,
        since: None,
        healthy: None,
        ports: vec![],
        status: None,
        detail: None,
    }
}

/// Asks the serving version on each node its probes.
pub fn verify(session: &Session) -> Result<Exit, Failure> {
    across::ask(session, "verify", |work: Work| async move {
        let Work { label, app, mut reached, output } = work;
        let reply = reached.connection.ask(&Request::Verify { app: app.clone() }).await?;
        reached.connection.close().await;
        let Reply::Verified { generation, probes } = reply else { return Err(df_fleet::NodeError::Answer) };
        let ok = probes.iter().all(|probe| probe.ok);
        output.result(&verified(label, app, generation, probes));
        Ok(if ok { NodeEnd::Done } else { NodeEnd::Differs })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use df_fleet::message::Running;

    #[test]
    fn what_a_node_has_given_up_is_down_and_it_is_said_why_and_what_to_do() {
        let app: AppName = "greeter".parse().expect("a name");
        let node = Node { name: None, address: "local:/n1".parse().expect("an address"), listen: None, sudo: false };
        let why = "given up: it crashed 10 times in 10 minutes, the last time: the program ended: exit status 3";
        let state = |current, given_up: Option<&str>| AppState {
            app: app.clone(),
            current,
            wanted: true,
            running: vec![],
            generations: vec![],
            staged: vec![],
            given_up: given_up.map(str::to_owned),
        };
        let shown = known(&node, &app, Some(&state(7, Some(why))));
        assert_eq!(row(&shown, Timestamp(0)), ["local:/n1", "down", "7", "-", "-", "-", "-", why]);
        let next = "next: df logs says why, df start or df repair tries again, df rollback goes back";
        assert_eq!(next_of_down(&shown), Some(format!("local:/n1: {why}; {next}")));
        assert_eq!(next_of_down(&known(&node, &app, Some(&state(7, None)))), None, "it will be started again");
        assert_eq!(next_of_down(&known(&node, &app, None)), None);
        let endless = known(&node, &app, Some(&state(7, Some(&format!("given up: {}", "x".repeat(1 << 20))))));
        assert!(next_of_down(&endless).is_some_and(|words| words.len() < 700), "whatever a node says fits on a screen");
    }

    fn running(state: RunState, status: &str, stopping: bool) -> AppState {
        let ports = vec![("http".parse().expect("a label"), "10.0.0.7:80".parse().expect("an address"))];
        AppState {
            app: "greeter".parse().expect("a name"),
            current: 3,
            wanted: true,
            running: vec![Running { generation: 3, pid: 7, state, since: Timestamp(0), ports, status: status.into(), stopping }],
            generations: vec![],
            staged: vec![],
            given_up: None,
        }
    }

    fn shown(status: &str) -> Vec<String> {
        let node = NodeState {
            name: Some("web1".into()),
            address: "ssh://web1".into(),
            listen: "10.0.0.7".into(),
            reachable: Some(true),
            app: None,
            generation: Some(3),
            image: None,
            commit: None,
            state: Some("serving".into()),
            since: None,
            healthy: Some(true),
            ports: vec!["http=10.0.0.7:80".into()],
            status: Some(status.into()),
            detail: None,
        };
        table::render(["", "", "", "", "", "", "", ""], &[row(&node, Timestamp(0))])
    }

    #[test]
    fn what_a_program_says_of_itself_is_shown_behind_its_ports() {
        assert_eq!(
            shown("reading the index, 40 %")[1],
            "web1  serving  3  -  -  -  yes  http=10.0.0.7:80 says: reading the index, 40 %"
        );
    }

    #[test]
    fn what_a_program_says_of_itself_cannot_steer_a_terminal_or_fill_it() {
        let lines = shown(&format!("\x1b[2J\r\u{202e}{}", "x".repeat(100_000)));
        assert_eq!(lines.len(), 2);
        assert!(lines[1].len() < 300 && lines[1].is_ascii() && !lines[1].contains(|c: char| c.is_control()), "{}", lines[1]);
        assert!(lines[1].contains(r"says: \u{1b}[2J\r\u{202e}x"), "{}", lines[1]);
    }

    #[test]
    fn a_version_that_stops_by_itself_does_not_look_like_one_that_serves() {
        for (state, stopping, word) in [
            (RunState::Serving, false, "serving"),
            (RunState::Serving, true, "stopping"),
            (RunState::Draining, true, "draining"),
            (RunState::Starting, false, "starting"),
        ] {
            assert_eq!(word_of(&running(state, "", stopping)), word);
        }
    }

    #[test]
    fn a_node_of_before_says_nothing_of_its_programs() {
        let before = r#"{"generation":3,"pid":7,"state":"serving","since":0,"ports":[]}"#;
        let now = serde_json::to_string(&Running { ports: vec![], ..running(RunState::Serving, "", false).running[0].clone() });
        assert_eq!(now.expect("plain data"), before);
        let read: Running = serde_json::from_str(before).expect("what it said");
        assert_eq!((read.status.as_str(), read.stopping), ("", false));
    }
}
