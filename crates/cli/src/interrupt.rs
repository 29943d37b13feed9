//! Ctrl-C: once, the step under way is finished or undone; twice, at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::exit::Exit;
use crate::output::Output;

/// Whether somebody wants the command to stop.
#[derive(Debug, Clone)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
    expected: Arc<AtomicBool>,
    told: watch::Receiver<bool>,
}

impl Interrupt {
    /// Begins to listen; needs a runtime around it.
    pub fn listen(output: Output) -> Self {
        let (tell, told) = watch::channel(false);
        let flag = Arc::new(AtomicBool::new(false));
        let expected = Arc::new(AtomicBool::new(false));
        let (set, is_expected) = (flag.clone(), expected.clone());
        tokio::spawn(async move {
            for n in 0.. {
                if wait().await.is_err() {
                    return;
                }
                if n > 0 {
                    output.error(&last_words());
                    output.end(Exit::Interrupted);
                    std::process::exit(i32::from(Exit::Interrupted.code()));
                }
                set.store(true, Ordering::SeqCst);
                tell.send_replace(true);
                if !is_expected.load(Ordering::SeqCst) {
                    output.note("interrupted: finishing or undoing the step under way; Ctrl-C again stops at once");
                }
            }
        });
        Self { flag, expected, told }
    }

    /// Returns whether it was pressed.
    pub fn is_pressed(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// Says that this is how the command is meant to end: nothing is said about it then.
    pub fn expect(&self) {
        self.expected.store(true, Ordering::SeqCst);
    }

    /// As [`Interrupt::expect`], until what is returned is dropped.
    pub fn while_expected(&self) -> Expected {
        self.expect();
        Expected(self.expected.clone())
    }

    /// Returns the flag for work that looks at it now and then.
    pub fn flag(&self) -> &AtomicBool {
        &self.flag
    }

    /// Waits until it is pressed.
    pub async fn pressed(&self) {
        let mut told = self.told.clone();
        if told.wait_for(|pressed| *pressed).await.is_err() {
            // Nobody listens any more, so nobody will press it.
            std::future::pending::<()>().await;
        }
    }
}

/// While this lives, Ctrl-C is expected.
#[derive(Debug)]
pub struct Expected(Arc<AtomicBool>);

impl Drop for Expected {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Waits for SIGINT, or for SIGTERM, which asks for the same.
async fn wait() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed,
        _ = terminate.recv() => Ok(()),
    }
}

fn last_words() -> crate::event::Event {
    crate::event::Event::Error {
        node: None,
        phase: "interrupted".into(),
        message: "stopped at once; a node that was at work finishes or undoes its step by itself".into(),
        serving: None,
        next: Some("df status".into()),
        log: vec![],
    }
}
