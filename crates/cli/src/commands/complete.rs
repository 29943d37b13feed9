//! `df __complete`: the names that shells offer, from the records here alone, silent about errors.

use std::collections::BTreeSet;

use df_core::text::escape;

use crate::args::Completed;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{Call, Session};
use crate::store::Shelf;

/// Prints names, one a line. What cannot be read offers nothing: a person is typing.
pub fn run(what: Completed, call: &Call) -> Result<Exit, Failure> {
    let lines = names(what, call).unwrap_or_default();
    // A name with a control character would be two lines.
    let lines: Vec<String> = lines.into_iter().filter(|line| *line == escape(line.as_bytes())).collect();
    call.output.table(&[], &lines);
    Ok(Exit::Done)
}

fn names(what: Completed, call: &Call) -> Result<Vec<String>, Failure> {
    let (config, top) = call.find()?;
    let state = call.state(&top);
    match what {
        Completed::Nodes => {
            let inventory = df_fleet::Inventory::load(&state).map_err(|error| Failure::here("nodes", &error))?;
            let named =
                inventory.nodes().iter().flat_map(|n| [n.name.as_ref().map(ToString::to_string), Some(n.address.to_string())]);
            Ok(named.flatten().chain(config.nodes).collect())
        }
        Completed::Versions => {
            let cache = Session::cache_dir_of(&config, &top);
            // Completing makes no cache where there is none.
            if !cache.join("v1").is_dir() {
                return Ok(vec![]);
            }
            let releases = Shelf::at(&cache)?.releases(&config.app)?;
            let commits: BTreeSet<String> = releases.iter().map(|stored| stored.release.commit.short().to_owned()).collect();
            Ok(commits.into_iter().collect())
        }
    }
}
