//! Questions to a person at a terminal.

use std::io::{self, IsTerminal as _, Write as _};

use crate::across;
use crate::failure::Failure;
use crate::session::Call;

/// Returns whether a person is there: who sees the question, can answer it, and reads what follows.
pub fn is_possible(call: &Call) -> bool {
    !call.globals.json && io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Asks one question and returns the line that was typed, without blanks around it; `None` when the input ended.
///
/// # Errors
/// Ctrl-C: nothing was changed yet.
pub fn line(call: &Call, phase: &'static str, question: &str) -> Result<Option<String>, Failure> {
    // Nothing is under way that would have to be finished, so nothing is said of it.
    let _expected = call.interrupt.while_expected();
    let mut stderr = io::stderr();
    let _ = write!(stderr, "{question}").and_then(|()| stderr.flush());
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread of its own, which dies with the process: a read cannot be called off.
    std::thread::spawn(move || {
        let mut answer = String::new();
        let n_read = io::stdin().read_line(&mut answer).unwrap_or(0);
        let _ = tell.send((n_read > 0).then(|| answer.trim().to_owned()));
    });
    call.block_on(async {
        tokio::select! {
            answer = told => Ok(answer.ok().flatten()),
            () = call.interrupt.pressed() => {
                let _ = writeln!(io::stderr());
                Err(across::interrupted(phase))
            }
        }
    })
}
