//! The section `verify`.

use df_core::name::{Label, PathText};
use df_core::spec::{Probe, RunSection, Transport};

use super::argv;
use super::error::{Fault, show};
use super::run::no_port;
use super::value::{Section, Value};

/// Reads the section; probes ask the ports of `run`. Also returns the programs that are asked for by `target`, which the build makes.
pub(super) fn read(value: &Value<'_>, run: Option<&RunSection>) -> Result<(Vec<Probe>, Vec<String>), Fault> {
    let (mut probes, mut targets) = (Vec::new(), Vec::new());
    for value in value.list()? {
        let section = Section::open(&value, "verify[]")?;
        let (http, tcp) = (section.get("http"), section.get("tcp"));
        let (command, target) = (section.get("command"), section.get("target"));
        probes.push(match (http, tcp, command, target) {
            (Some(http), None, None, None) => http_probe(&http, run)?,
            (None, Some(tcp), None, None) => {
                let section = Section::open(&tcp, "verify[].tcp")?;
                Probe::Tcp { port: port(&section, run)? }
            }
            (None, None, Some(command), None) => command_probe(&command)?,
            (None, None, None, Some(target)) => {
                targets.push(target_name(&target)?);
                Probe::Command { argv: vec![format!("bin/{}", targets.last().expect("pushed one line above"))] }
            }
            _ => return Err(section.refuse("exactly one of http, tcp, command and target is needed")),
        });
    }
    Ok((probes, targets))
}

fn http_probe(value: &Value<'_>, run: Option<&RunSection>) -> Result<Probe, Fault> {
    let section = Section::open(value, "verify[].http")?;
    let status = section.or("status", 200, |value| value.whole(100, 599))?;
    Ok(Probe::Http {
        port: port(&section, run)?,
        path: section.or("path", "/".to_owned(), request_path)?,
        status: u16::try_from(status).expect("bounded three lines above"),
    })
}

/// Returns what may stand in a request line: visible ASCII that begins with a slash.
fn request_path(value: &Value<'_>) -> Result<String, Fault> {
    let text = value.text()?;
    let fits = text.starts_with('/') && text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err(value.range("a path of visible ASCII that begins with /", text)) }
}

fn port(section: &Section<'_>, run: Option<&RunSection>) -> Result<Label, Fault> {
    let value = section.need("port")?;
    let text = value.text()?;
    let empty = std::collections::BTreeMap::new();
    let ports = run.map_or(&empty, |run| &run.ports);
    let found = Label::new(text).ok().and_then(|name| Some((ports.get(&name)?.transport == Transport::Udp, name)));
    match found {
        None => Err(value.refuse(no_port(text, ports))),
        Some((true, name)) => Err(value.refuse(format!("asks \"{name}\", where datagrams are spoken; ask by a command instead"))),
        Some((false, name)) => Ok(name),
    }
}

fn command_probe(value: &Value<'_>) -> Result<Probe, Fault> {
    let argv = argv::split(value.text()?).map_err(|why| value.refuse(why))?;
    let Some(program) = argv.first() else { return Err(value.refuse("is empty")) };
    if program.starts_with('~') {
        return Err(value.refuse(format!("path \"{}\" begins with ~, which is not expanded here", show(program))));
    }
    PathText::new(program).map_err(|error| value.refuse(format!("the program must be in the image: {error}")))?;
    Ok(Probe::Command { argv })
}

/// Returns the name of a program of the build: one component.
fn target_name(value: &Value<'_>) -> Result<String, Fault> {
    let name = value.word()?;
    let allowed = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    if name.starts_with('-') || name.len() > 128 || !name.chars().all(allowed) {
        return Err(value.refuse(format!("\"{}\" is no name of a cargo binary", show(name))));
    }
    Ok(name.to_owned())
}
