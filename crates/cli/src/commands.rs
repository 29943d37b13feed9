//! The commands: each resolves what its words mean, calls the rooms, and renders what they say.

mod build;
pub mod cache;
mod check;
mod checksums;
mod complete;
mod cp;
mod deploy;
mod doctor;
mod gc;
mod hook;
mod init;
mod listing;
mod nodes;
mod records;
mod repair;
mod rollback;
mod running;
mod trust;
mod versions;

use std::io::Write as _;

use crate::args::{Command, Hook, HookCommand, Listed};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::{Call, Session};
use crate::{completions, man, preparing};

/// Does what a command says. Events and errors of nodes were written when this returns; a failure of the whole was not.
pub fn run(command: &Command, call: Call) -> Result<Exit, Failure> {
    match command {
        Command::Init(_) => init::run(&call),
        Command::Hook(Hook { command: HookCommand::Install(args) }) => hook::install(args, call),
        Command::Completions(args) => print(&completions::script(args.shell)),
        Command::Man(args) => write_man(&call, &args.dir),
        Command::Doctor(_) => doctor::run(&call),
        Command::Complete(args) => complete::run(args.what, &call),
        Command::Deploy(args) if args.watch => deploy::watch(args, call.session()?),
        command => with_session(command, &call.session()?),
    }
}

fn with_session(command: &Command, session: &Session) -> Result<Exit, Failure> {
    match command {
        Command::Add(args) => nodes::add(args, session),
        Command::Remove(args) => nodes::remove(args, session),
        Command::List(args) => match args.what {
            Listed::Nodes => listing::nodes(session),
            Listed::Versions => versions::run(session),
        },
        Command::With(args) => nodes::with(args, session),
        Command::Build(args) => build::run(args, session),
        Command::Cp(args) => cp::run(args, session),
        Command::Start(_) => running::start(session),
        Command::Stop(args) => running::stop(args, session),
        Command::Restart(_) => running::restart(session),
        Command::CompareChecksums(_) => checksums::run(session),
        Command::Verify(_) => listing::verify(session),
        Command::Deploy(args) => deploy::run(args, session),
        Command::Rollback(args) => rollback::run(args, session),
        Command::Repair(args) => repair::run(*args, session),
        Command::Prepare(_) => preparing::run(session),
        Command::Gc(args) => gc::run(args, session),
        Command::Status(_) => listing::status(session),
        Command::Logs(args) => records::logs(args, session),
        Command::History(_) => records::history(session),
        Command::Trust(args) => trust::run(args, session),
        Command::Cache(args) => cache::run(&args.command, session),
        Command::Hooked(args) => hook::called(args, session),
        Command::Init(_)
        | Command::Hook(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Doctor(_)
        | Command::Complete(_) => Ok(Exit::Done),
    }
}

fn print(text: &str) -> Result<Exit, Failure> {
    // A reader that went away is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(Exit::Done)
}

fn write_man(call: &Call, dir: &std::path::Path) -> Result<Exit, Failure> {
    let pages = man::write(&call.here.join(dir)).map_err(|error| Failure::here("man", &error))?;
    let lines: Vec<String> =
        pages.iter().map(|page| df_core::text::escape(std::os::unix::ffi::OsStrExt::as_bytes(page.as_os_str()))).collect();
    call.output.table(&[], &lines);
    Ok(Exit::Done)
}
