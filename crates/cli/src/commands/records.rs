//! `df logs`, `df history`: what programs wrote, and who deployed what.

use df_core::limits;
use df_fleet::message::{HistoryEntry, Reply, Request};
use df_fleet::{Node, NodeError};

use crate::across::{self, Work};
use crate::args;
use crate::event::Event;
use crate::exit::{Exit, NodeEnd, of_nodes};
use crate::failure::Failure;
use crate::output::Output;
use crate::render::table;
use crate::session::Session;

/// Attempts shown.
const N_ATTEMPTS: u32 = 50;

/// Shows the output of the serving version, or of the generation that is named, and goes on showing it with `-f`.
pub fn logs(args: &args::Logs, session: &Session) -> Result<Exit, Failure> {
    let (generation, lines, follow) = (args.generation, args.lines.min(10_000), args.follow);
    let crew = across::reach(session, "logs", false)?;
    let alone = crew.reached.len() == 1;
    let mut ends = crew.ends;
    // Ctrl-C is how one stops following, so it is no failure then.
    let interrupt = session.call.interrupt.clone();
    if follow {
        interrupt.expect();
    }
    ends.extend(across::run(session, "logs", crew.reached, |work: Work| {
        let interrupt = interrupt.clone();
        async move {
            tokio::select! {
                ended = show(work, generation, lines, follow, alone) => ended,
                () = interrupt.pressed() => Ok(NodeEnd::Done),
            }
        }
    }));
    Ok(of_nodes(&ends))
}

/// Shows who activated what, newest last, node by node.
pub fn history(session: &Session) -> Result<Exit, Failure> {
    let (tell, told) = std::sync::mpsc::channel();
    let exit = across::ask(session, "history", |work: Work| {
        let tell = tell.clone();
        async move {
            let Work { label, app, mut reached, .. } = work;
            let reply = reached.connection.ask_soon(&Request::History { app, limit: N_ATTEMPTS }).await?;
            reached.connection.close().await;
            let Reply::History { entries } = reply else { return Err(NodeError::Answer) };
            // The receiver lives as long as the work.
            let _ = tell.send((label, entries));
            Ok(NodeEnd::Done)
        }
    })?;
    let mut attempts: Vec<(String, HistoryEntry)> =
        told.try_iter().flat_map(|(node, entries)| entries.into_iter().map(move |entry| (node.clone(), entry))).collect();
    let order: Vec<String> = session.nodes()?.iter().map(Node::label).collect();
    attempts.sort_by_key(|(node, _)| order.iter().position(|known| known == node));
    show_history(session.output(), &attempts);
    Ok(exit)
}

async fn show(work: Work, generation: Option<u64>, lines: u32, follow: bool, alone: bool) -> Result<NodeEnd, NodeError> {
    let Work { label, app, mut reached, output } = work;
    let request = Request::Logs { app, generation, lines, follow };
    let mut rest = vec![];
    if follow {
        reached.connection.tell(&request).await?;
        while let Some(bytes) = reached.connection.follow().await? {
            rest.extend(bytes);
            let whole = rest.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            let held = rest.split_off(whole);
            print(&output, &label, &rest, alone);
            rest = held;
            // A program that writes no line ends must not fill our memory.
            if rest.len() > limits::RELEASE_LEN {
                print(&output, &label, &std::mem::take(&mut rest), alone);
            }
        }
    } else {
        let Reply::Bytes { len } = reached.connection.ask_soon(&request).await? else { return Err(NodeError::Answer) };
        rest = reached.connection.bytes(len, 64 << 20).await?;
        reached.connection.close().await;
    }
    print(&output, &label, &rest, alone);
    Ok(NodeEnd::Done)
}

fn print(output: &Output, node: &str, bytes: &[u8], alone: bool) {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.is_empty() {
        return;
    }
    let texts: Vec<String> = bytes.split(|&b| b == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    let escape = |text: &String| df_core::text::escape(text.as_bytes());
    let lines: Vec<String> =
        texts.iter().map(|text| if alone { escape(text) } else { format!("{node} | {}", escape(text)) }).collect();
    let events: Vec<Event> = texts.into_iter().map(|line| Event::Log { node: node.to_owned(), line }).collect();
    output.table(&events, &lines);
}

fn show_history(output: &Output, attempts: &[(String, HistoryEntry)]) {
    let row = |(node, e): &(String, HistoryEntry)| {
        let went = match e.from {
            0 => e.generation.to_string(),
            from if from == e.generation => from.to_string(),
            from => format!("{from} -> {}", e.generation),
        };
        let ended = if e.ok { "ok".to_owned() } else { format!("FAILED {}", df_core::text::shorten(&e.detail, 120)) };
        [node.clone(), e.at.to_string(), e.who.clone(), e.what.clone(), went, e.commit.short().to_owned(), ended]
    };
    let rows: Vec<_> = attempts.iter().map(row).collect();
    let event = |(node, e): &(String, HistoryEntry)| Event::Attempt {
        node: node.clone(),
        at: e.at,
        who: e.who.clone(),
        what: e.what.clone(),
        generation: e.generation,
        from_generation: e.from,
        commit: e.commit.clone(),
        ok: e.ok,
        detail: e.detail.clone(),
    };
    let events: Vec<_> = attempts.iter().map(event).collect();
    output.table(&events, &table::render(["NODE", "AT", "WHO", "WHAT", "GENERATION", "COMMIT", "END"], &rows));
}
