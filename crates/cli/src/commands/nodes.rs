//! `df add`, `df rm`, `df with`: which nodes there are, and which of them commands act on.

use df_fleet::inventory::InventoryError;
use df_fleet::{Address, Context, Inventory, Node};

use crate::args;
use crate::commands::listing;
use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leases;
use crate::session::Session;

/// Puts a node at the end of the list.
pub fn add(args: &args::Add, session: &Session) -> Result<Exit, Failure> {
    let refuse = |error: &dyn std::error::Error| Failure::usage("add", error).next("df add root@HOST, or df help add");
    let address = Address::parse(&args.address, &session.call.here).map_err(|error| refuse(&error))?;
    let name = args.name.as_deref().map(str::parse).transpose().map_err(|error: df_core::name::NameError| refuse(&error))?;
    let node = Node { name, address, listen: args.listen, sudo: args.sudo };
    let known = session.inventory()?;
    // The nodes of df.yaml count too: a name or a loopback address is not given twice.
    let with_listen = |listed: &Inventory| {
        let mut all = listed.clone();
        known.nodes().iter().for_each(|node| drop(all.add(node.clone())));
        match all.add(node.clone()) {
            Ok(added) => Ok(Node { listen: added.listen, ..node.clone() }),
            Err(InventoryError::AddressUsed(_)) => Ok(node.clone()),
            Err(error) => Err(error),
        }
    };
    with_listen(&known).map_err(|error| refuse(&error).next("df ls nodes"))?;
    if session.is_dry_run() {
        // What stands in df.yaml alone may be added; what was added may not be again.
        let mut here = Inventory::load(&session.state).map_err(|error| refuse(&error))?;
        here.add(node.clone()).map_err(|error| refuse(&error).next("df ls nodes"))?;
        let event = Event::Planned {
            node: Some(node.label()),
            action: "add to the list".into(),
            bytes: None,
            requests: Some(0),
            reason: String::new(),
            changes: true,
        };
        session.output().result(&event);
        return Ok(session.planned(true));
    }
    // Under the lock of the list: of two that are added at once each gets an address of its own.
    let added = Inventory::edit(&session.state, |inventory| with_listen(inventory).and_then(|node| inventory.add(node)));
    let added = added.map_err(|error| refuse(&error).next("df ls nodes"))?;
    session.hide_state();
    let line = format!("added {}{}", added.label(), listening(&added));
    session.output().table(&[listing::node(&added)], &[df_core::text::escape(line.as_bytes())]);
    Ok(Exit::Done)
}

/// Takes a node off the list; what it holds and serves stays.
pub fn remove(args: &args::Remove, session: &Session) -> Result<Exit, Failure> {
    let refuse = |error: &dyn std::error::Error| Failure::usage("remove", error).next("df ls nodes");
    if session.is_dry_run() {
        let node = session.inventory()?.remove(&args.node, &session.call.here).map_err(|error| refuse(&error))?;
        let event = Event::Planned {
            node: Some(node.label()),
            action: "take off the list".into(),
            bytes: None,
            requests: Some(0),
            reason: "what it serves stays".into(),
            changes: true,
        };
        session.output().result(&event);
        leases::plan(session);
        return Ok(session.planned(true));
    }
    let here = &session.call.here;
    let removed = Inventory::edit(&session.state, |inventory| inventory.remove(&args.node, here));
    let removed = removed.map_err(|error| match session.inventory() {
        Ok(all) if all.nodes().iter().any(|node| node.is_called(&args.node, here)) => {
            Failure::new(Exit::Usage, "remove", format!("{} stands in `nodes` of df.yaml", args.node))
                .next("take it out of df.yaml")
        }
        _ => refuse(&error),
    })?;
    let line = format!("removed {}; what it serves stays", removed.label());
    session.output().table(&[listing::node(&removed)], &[df_core::text::escape(line.as_bytes())]);
    leases::end(session, &removed);
    Ok(Exit::Done)
}

/// Pushes nodes onto the stack of contexts, pops it, empties it, or shows it.
pub fn with(args: &args::With, session: &Session) -> Result<Exit, Failure> {
    let failed = |error: df_fleet::context::ContextError| match error {
        error @ df_fleet::context::ContextError::Io { .. } => Failure::here("context", &error),
        error @ df_fleet::context::ContextError::Empty => Failure::usage("context", &error).next("df with ADDRESS"),
        error => Failure::usage("context", &error).next("df ls nodes"),
    };
    if !args.nodes.is_empty() {
        // The words have to name nodes now; later they are looked up again.
        df_fleet::context::nodes(&session.inventory()?, &Context::default(), &args.nodes, &session.call.here).map_err(failed)?;
    }
    if session.is_dry_run() {
        return plan_with(args, session);
    }
    if args.pop || args.clear || !args.nodes.is_empty() {
        let edit = |change: &dyn Fn(&mut Context)| {
            let change = |context: &mut Context| {
                change(context);
                Ok(())
            };
            Context::edit(&session.state, change).map_err(failed)
        };
        match args {
            args::With { pop: true, .. } => drop(Context::edit(&session.state, Context::pop).map_err(failed)?),
            args::With { clear: true, .. } => edit(&Context::clear)?,
            args::With { nodes, .. } => edit(&|context| context.push(nodes.clone()))?,
        }
        session.hide_state();
    }
    let context = session.context()?;
    let levels: Vec<&Vec<String>> = context.stack().iter().rev().collect();
    let events: Vec<Event> =
        levels.iter().enumerate().map(|(depth, nodes)| Event::Context { depth, nodes: (*nodes).clone() }).collect();
    let mut lines: Vec<String> = levels.iter().map(|nodes| df_core::text::escape(nodes.join(" ").as_bytes())).collect();
    if lines.is_empty() {
        lines.push("all nodes".into());
    }
    session.output().table(&events, &lines);
    Ok(Exit::Done)
}

/// Says what would become of the stack.
fn plan_with(args: &args::With, session: &Session) -> Result<Exit, Failure> {
    let depth = session.context()?.stack().len();
    let action = match args {
        args::With { pop: true, .. } if depth == 0 => {
            return Err(Failure::usage("context", &df_fleet::context::ContextError::Empty).next("df with ADDRESS"));
        }
        args::With { pop: true, .. } => "take the top off the stack".to_owned(),
        args::With { clear: true, .. } if depth > 0 => "empty the stack".to_owned(),
        args::With { nodes, .. } if !nodes.is_empty() => format!("push {}", nodes.join(" ")),
        _ => "nothing".to_owned(),
    };
    let changes = action != "nothing";
    let event = Event::Planned { node: None, action, bytes: None, requests: Some(0), reason: String::new(), changes };
    session.output().result(&event);
    Ok(session.planned(changes))
}

fn listening(node: &Node) -> String {
    node.listen.map_or_else(String::new, |listen| format!(", its ports listen on {listen}"))
}
