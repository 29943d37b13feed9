//! `df init`: a df.yaml for the repository here.

use df_core::text::escape;

use crate::event::Event;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::init::{self, InitError};
use crate::session::Call;

/// Writes df.yaml and says what to type next.
pub fn run(call: &Call) -> Result<Exit, Failure> {
    let facts = init::look(&call.here).map_err(|error| failed(&error))?;
    let file = facts.top.join("df.yaml");
    if call.globals.dry_run {
        if file.symlink_metadata().is_ok() {
            return Err(failed(&InitError::Exists { file }));
        }
        let action = format!("write {}", file.display());
        call.output.result(&Event::Planned {
            node: None,
            action,
            bytes: None,
            requests: Some(0),
            reason: String::new(),
            changes: true,
        });
        return Ok(if call.globals.detailed_exitcode { Exit::Changes } else { Exit::Done });
    }
    let written = init::write(&facts).map_err(|error| failed(&error))?;
    let mut lines = vec![format!("wrote {}", escape(written.file.display().to_string().as_bytes())), "next:".into()];
    lines.extend(init::next(&facts).iter().map(|line| format!("  {line}")));
    let note = Event::Note { message: format!("wrote {}", written.file.display()) };
    call.output.table(&[note], &lines);
    Ok(Exit::Done)
}

fn failed(error: &InitError) -> Failure {
    let failure = Failure::usage("init", error);
    match error {
        InitError::NoRepository { .. } => failure.next("git init"),
        InitError::Exists { .. } => failure.next("df build"),
        InitError::Cargo { .. } => failure.next("cargo metadata"),
        InitError::Io { .. } => Failure::here("init", error),
    }
}
