//! The section `run`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use df_core::SocketPath;
use df_core::name::{Label, PathText};
use df_core::spec::{Connections, FIRST_EPOCH, Handoff, Port, RunLimits, RunSection, Transport, UnixSocket};

use super::argv::{self, Ask};
use super::error::{Fault, show};
use super::value::{Section, Value};

const DAY: Duration = Duration::from_secs(86_400);
/// Who may connect to a socket in the file system unless told: everybody on the machine, as to a port on a loopback address.
const USUAL_MODE: u16 = 0o666;
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// What a port does unless it says otherwise.
#[derive(Clone, Copy)]
struct Usual {
    handoff: Handoff,
    connections: Connections,
}

/// Reads the section.
pub(super) fn read(value: &Value<'_>) -> Result<RunSection, Fault> {
    refuse_several(value)?;
    let section = Section::open(value, "run")?;
    let usual = Usual {
        handoff: section.or("handoff", Handoff::Listener, handoff)?,
        connections: section.or("connections", Connections::Drain, connections)?,
    };
    let ports = section.or("ports", BTreeMap::new(), |value| ports(value, usual))?;
    let require_zero_loss = zero_loss(&section, &ports)?;
    refuse_beside_proxy(&section, &ports)?;
    Ok(RunSection {
        exec: section.need("exec")?.path()?,
        args: section.or("args", Vec::new(), |value| args(value, &ports))?,
        env: section.or("env", BTreeMap::new(), env)?,
        env_file: section.option("env_file", env_file)?,
        user: section.option("user", user)?,
        limits: section.or("limits", RunLimits::default(), limits)?,
        ports,
        exclusive: section.or("exclusive", false, Value::flag)?,
        ready: section.or("ready", HALF_A_MINUTE, |value| value.duration(Duration::from_millis(1), DAY))?,
        drain: section.or("drain", HALF_A_MINUTE, |value| value.duration(Duration::ZERO, DAY))?,
        data_epoch: section.or("data_epoch", FIRST_EPOCH, epoch)?,
        prove: section.or("prove", true, Value::flag)?,
        require_zero_loss,
    })
}

/// Reads whether a lost request takes a deploy back; refuses it where no loss would be seen.
fn zero_loss(section: &Section<'_>, ports: &BTreeMap<Label, Port>) -> Result<bool, Fault> {
    if !section.or("require_zero_loss", false, Value::flag)? {
        return Ok(false);
    }
    let asked = section.need("require_zero_loss")?;
    if !section.or("prove", true, Value::flag)? {
        return Err(asked.refuse("needs \"prove: true\": nobody would see a loss".to_owned()));
    }
    if let Some((name, _)) = ports.iter().find(|(_, port)| port.transport == Transport::Udp) {
        return Err(asked.refuse(format!(
            "cannot be had with a UDP port (\"{name}\"): the node asks nothing there, so nobody would see a loss"
        )));
    }
    match ports.iter().find(|(_, port)| port.handoff == Handoff::Reuseport) {
        Some((name, _)) => Err(asked.refuse(format!(
            "cannot be had with \"handoff: reuseport\" (port \"{name}\"): what is lost is lost when the old version closes its socket, after the deploy"
        ))),
        None => Ok(true),
    }
}

/// Refuses what a program behind a proxy cannot have: a descriptor for another of its ports, and a `PORT` of its own choice.
fn refuse_beside_proxy(section: &Section<'_>, ports: &BTreeMap<Label, Port>) -> Result<(), Fault> {
    let of = |handoff| ports.iter().find(|(_, port)| port.handoff == handoff).map(|(name, _)| name);
    let Some(proxied) = of(Handoff::Proxy) else { return Ok(()) };
    if let Some(other) = of(Handoff::Listener) {
        return Err(section.need("ports")?.refuse(format!(
            "\"{proxied}\" is behind a proxy and \"{other}\" takes a descriptor, and a program does one or the other; say \"handoff: proxy\" for both"
        )));
    }
    let env = section.option("env", env)?.unwrap_or_default();
    if env.contains_key("PORT") {
        return Err(section
            .need("env")?
            .refuse("PORT is set by df-node with \"handoff: proxy\": each version gets its own".to_owned()));
    }
    Ok(())
}

/// `run` may one day map names to executables; then there is no `exec` beside them.
fn refuse_several(value: &Value<'_>) -> Result<(), Fault> {
    if !value.is_map() {
        return Ok(());
    }
    let entries = value.entries()?;
    let holds_exec = |entry: &super::value::Entry<'_>| {
        entry.value.is_map() && entry.value.entries().is_ok_and(|inner| inner.iter().any(|inner| inner.name == "exec"))
    };
    let several = entries.iter().all(|entry| entry.name != "exec") && entries.iter().any(holds_exec);
    if several { Err(value.not_built("several executables of one application are")) } else { Ok(()) }
}

fn epoch(value: &Value<'_>) -> Result<u32, Fault> {
    let epoch = value.whole(1, u32::MAX.into())?;
    Ok(u32::try_from(epoch).expect("bounded one line above"))
}

fn connections(value: &Value<'_>) -> Result<Connections, Fault> {
    value.choice(&[("drain", Connections::Drain), ("hand over", Connections::HandOver), ("drop", Connections::Drop)])
}

fn handoff(value: &Value<'_>) -> Result<Handoff, Fault> {
    value.choice(&[
        ("listener", Handoff::Listener),
        ("reuseport", Handoff::Reuseport),
        ("proxy", Handoff::Proxy),
        ("restart", Handoff::Restart),
    ])
}

fn ports(value: &Value<'_>, usual: Usual) -> Result<BTreeMap<Label, Port>, Fault> {
    let mut ports: BTreeMap<Label, Port> = BTreeMap::new();
    for entry in value.entries()? {
        let name = Label::new(entry.name).map_err(|error| entry.refuse(error.to_string()))?;
        let port = port(&entry.value, usual)?;
        if let Some((other, _)) = ports.iter().find(|(_, other)| clash(other, &port)) {
            return Err(entry.refuse(format!("listens where \"{other}\" does")));
        }
        ports.insert(name, port);
    }
    Ok(ports)
}

/// Returns whether two ports of a program would be in each other's way.
fn clash(one: &Port, other: &Port) -> bool {
    match (&one.transport, &other.transport) {
        (Transport::Unix(one), Transport::Unix(other)) => one.path == other.path,
        (one_speaks, other_speaks) => one_speaks == other_speaks && one.port == other.port && one.host == other.host,
    }
}

fn port(value: &Value<'_>, usual: Usual) -> Result<Port, Fault> {
    let port = if value.is_map() {
        let section = Section::open(value, "run.ports.*")?;
        let mut port = listen(&section.need("listen")?, usual)?;
        port.handoff = section.or("handoff", usual.handoff, handoff)?;
        port.connections = section.or("connections", usual.connections, connections)?;
        match (&mut port.transport, section.option("mode", mode)?) {
            (Transport::Unix(socket), Some(mode)) => socket.mode = mode,
            (_, Some(_)) => return Err(section.need("mode")?.refuse("is for sockets in the file system (unix:PATH)".to_owned())),
            (_, None) => {}
        }
        port
    } else {
        listen(value, usual)?
    };
    if matches!(port.transport, Transport::Unix(_)) && port.handoff != Handoff::Listener {
        return Err(value.refuse(
            "a socket in the file system goes from version to version with \"handoff: listener\" only; say so for this port"
                .to_owned(),
        ));
    }
    if port.handoff == Handoff::Proxy && port.transport == Transport::Udp {
        return Err(value.refuse(
            "a proxy takes connections, not datagrams; a UDP port goes from version to version with \"handoff: listener\""
                .to_owned(),
        ));
    }
    if port.handoff == Handoff::Proxy && port.connections == Connections::HandOver {
        return Err(value.refuse(
            "\"connections: hand over\" needs a program that has its clients' connections, and behind a proxy it has not"
                .to_owned(),
        ));
    }
    if port.handoff == Handoff::Restart && port.connections == Connections::HandOver {
        return Err(value.refuse(
            "\"connections: hand over\" needs two versions at once, and \"handoff: restart\" never has them".to_owned(),
        ));
    }
    Ok(port)
}

/// Returns where a port listens: `8080` on the node's own address, or `0.0.0.0:8080`; with `udp:` before it for datagrams, or `unix:` and a path.
fn listen(value: &Value<'_>, usual: Usual) -> Result<Port, Fault> {
    let text = value.text()?;
    let at = |host, port, transport| Port { host, port, transport, handoff: usual.handoff, connections: usual.connections };
    if let Some(path) = text.strip_prefix("unix:") {
        let path = SocketPath::new(path).map_err(|error| value.refuse(error.to_string()))?;
        return Ok(at(None, 0, Transport::Unix(UnixSocket { path, mode: USUAL_MODE })));
    }
    let (address, transport) = match text.strip_prefix("udp:") {
        Some(rest) => (rest, Transport::Udp),
        None => (text, Transport::Tcp),
    };
    if address.contains([':', '.']) {
        return match address.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(at(Some(address.ip()), address.port(), transport)),
            _ => Err(value.range("an IP address with a port from 1 to 65535 (0.0.0.0:8080, [::]:8080)", text)),
        };
    }
    let port = match transport {
        Transport::Udp => address.parse().ok().filter(|port| *port > 0 && address.bytes().all(|b| b.is_ascii_digit())),
        _ => Some(u16::try_from(value.whole(1, u16::MAX.into())?).expect("bounded in this line")),
    };
    port.map(|port| at(None, port, transport)).ok_or_else(|| value.range("udp: with a port from 1 to 65535", text))
}

/// Returns the permissions of a socket, as `chmod` takes them.
fn mode(value: &Value<'_>) -> Result<u16, Fault> {
    let text = value.text()?;
    let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u16::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777 && mode & 0o600 == 0o600);
    mode.ok_or_else(|| value.range("permissions in octal that let the owner in (0600, 0660, 0666)", text))
}

fn args(value: &Value<'_>, ports: &BTreeMap<Label, Port>) -> Result<Vec<String>, Fault> {
    let mut args = Vec::new();
    for argument in value.list()? {
        let text = argument.text()?;
        for (ask, name) in argv::placeholders(text).map_err(|why| argument.refuse(why))? {
            let port = Label::new(name).ok().and_then(|name| ports.get(&name));
            match (port, ask) {
                (None, _) => return Err(argument.refuse(no_port(name, ports))),
                (Some(port), Ask::Descriptor) if port.handoff == Handoff::Proxy => {
                    return Err(argument.refuse(format!(
                        "the proxy has the descriptor of port \"{name}\"; {{port:{name}}} is where the program listens"
                    )));
                }
                (Some(port), Ask::Descriptor) if port.handoff != Handoff::Listener => {
                    return Err(
                        argument.refuse(format!("the program binds port \"{name}\" by itself, so there is no descriptor for it"))
                    );
                }
                (Some(port), Ask::Part) if matches!(port.transport, Transport::Unix(_)) => {
                    return Err(argument.refuse(format!(
                        "\"{name}\" is a socket in the file system, which has no host and no port; {{addr:{name}}} is its path"
                    )));
                }
                (Some(_), _) => {}
            }
        }
        args.push(text.to_owned());
    }
    Ok(args)
}

/// Says that a port is not there, and which are.
pub(super) fn no_port(name: &str, ports: &BTreeMap<Label, Port>) -> String {
    let names: Vec<_> = ports.keys().map(Label::as_str).collect();
    match names.is_empty() {
        true => format!("names the port \"{}\", but run.ports has none", show(name)),
        false => format!("names the port \"{}\", which run.ports has not (there are: {})", show(name), names.join(", ")),
    }
}

fn env(value: &Value<'_>) -> Result<BTreeMap<String, String>, Fault> {
    let mut env = BTreeMap::new();
    for entry in value.entries()? {
        if let Some(why) = refused_name(entry.name) {
            return Err(entry.refuse(why));
        }
        env.insert(entry.name.to_owned(), entry.value.lines()?.to_owned());
    }
    Ok(env)
}

/// Returns why the program may not get a variable of this name from df.yaml.
fn refused_name(name: &str) -> Option<String> {
    let name_shown = show(name);
    let why = match name {
        "" => "a variable needs a name".to_owned(),
        _ if name.contains(['=', '\0', '\n']) => format!("\"{name_shown}\" is no name of a variable"),
        "PATH" => "PATH comes from df-node, so that the image decides what runs; name programs by their path".to_owned(),
        _ if name.starts_with("LD_") => format!("{name_shown} makes the loader run code from outside of the image"),
        "LISTEN_FDS" | "LISTEN_FDNAMES" | "LISTEN_PID" | "NOTIFY_SOCKET" => format!("{name_shown} is set by df-node"),
        _ if name.starts_with("DF_") => format!("{name_shown} is among the names that df-node sets (DF_)"),
        _ => return None,
    };
    Some(why)
}

fn env_file(value: &Value<'_>) -> Result<String, Fault> {
    let text = value.word()?;
    if text.starts_with('~') {
        return Err(value.refuse(format!("\"{}\" begins with ~, which is not expanded on nodes", show(text))));
    }
    // Absolute, or below the data directory; either way a path without detours.
    PathText::new(text.strip_prefix('/').unwrap_or(text)).map_err(|error| value.refuse(error.to_string()))?;
    Ok(text.to_owned())
}

fn user(value: &Value<'_>) -> Result<String, Fault> {
    let name = value.word()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.starts_with(['-', '.']) || name.len() > 32 || !name.chars().all(allowed) {
        return Err(value.refuse(format!("\"{}\" is no name of a user", show(name))));
    }
    Ok(name.to_owned())
}

fn limits(value: &Value<'_>) -> Result<RunLimits, Fault> {
    let section = Section::open(value, "run.limits")?;
    Ok(RunLimits {
        memory: section.option("memory", |value| value.size(1 << 20, 1 << 50))?,
        nofile: section.option("nofile", |value| value.whole(16, 1 << 20))?,
        pids: section.option("pids", |value| value.whole(1, 1 << 16))?,
    })
}
