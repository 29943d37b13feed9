//! Events as lines for people: short, aligned, every foreign byte escaped.

pub mod table;
pub mod units;
mod why;

use df_build::Difference;
use df_core::text::{escape, shorten};
use df_core::{CommitId, ImageId};
use df_fleet::message::{OwnQueue, ProbeOutcome};

use crate::event::{Activation, Event, HandoffStep, Placed};
use units::{bytes, seconds};

/// Width of the column that holds a node's name.
pub(crate) const NODE_WIDTH: usize = 16;
/// Differences of two builds that are shown.
const N_DIFFERENCES: usize = 20;

/// Returns the lines for an event; none for one that only scripts want.
pub fn lines(event: &Event) -> Vec<String> {
    match event {
        Event::Version { .. } | Event::Result { .. } | Event::Node(_) | Event::Context { .. } | Event::Attempt { .. } => vec![],
        Event::Release { .. } | Event::Generation { .. } => vec![],
        Event::Built { commit, image, reused, why, seconds: s, .. } => {
            if *reused {
                let text = format!("  {} is image {}  nothing changed: it is in the cache", commit.short(), image.short());
                return vec![text];
            }
            let mut lines = vec![format!("  {} is image {}  {}", commit.short(), image.short(), seconds(*s))];
            if !why.is_empty() {
                lines.push(format!("  why: {}", why::line(why)));
            }
            lines
        }
        Event::Checked { image, again, reproducible, commit, differs, differences, .. } => {
            checked(commit, (*image, *again), *reproducible, differs, differences)
        }
        Event::Copied { node, codec, .. } if codec == "none" => vec![at(node, "holds it already")],
        Event::Copied { node, codec, base, bytes_sent, image_bytes, seconds: s, through_cache, bytes_fetched, .. } => {
            let how = base.map_or_else(|| codec.clone(), |base| format!("{codec} of {}", base.short()));
            let how = if *through_cache { format!("{how}, {} fetched from the cache", bytes(*bytes_fetched)) } else { how };
            vec![at(node, &format!("{} sent for {}  {how}  {}", bytes(*bytes_sent), bytes(*image_bytes), seconds(*s)))]
        }
        Event::Attested { what, key, keys, threshold, .. } => {
            let of = if *threshold == 0 { String::new() } else { format!("; {} of {threshold} keys so far", keys.len()) };
            vec![format!("  {} attested by {}{of}", esc(what), esc(key))]
        }
        Event::Trust { node, agrees, detail, .. } => {
            let differs = if *agrees { "" } else { ", which is not what df.yaml names" };
            vec![at(node, &format!("{}{differs}", esc(detail)))]
        }
        Event::Started { node, generation, pid, .. } => {
            vec![at(node, &format!("generation {generation} started{}", pid_of(*pid)))]
        }
        Event::Stopped { node, generation, pid, .. } => {
            vec![at(node, &format!("generation {generation} stopped{}", pid_of(*pid)))]
        }
        Event::Verified { node, generation, probes, .. } if probes.is_empty() => {
            vec![at(node, &format!("generation {generation} runs; df.yaml asks no probes"))]
        }
        Event::Verified { node, probes, .. } => probes.iter().map(|p| at(node, &probe(p))).collect(),
        Event::Activated(a) => vec![at(&a.node, &format!("generation {} serves{}{}", a.generation, commit_of(a), before(a)))],
        Event::Confirmed(a) => vec![at(&a.node, &format!("generation {} stays", a.generation))],
        Event::RolledBack(a) => {
            let why = match a.reason.as_str() {
                "" | "rollback" => String::new(),
                reason => format!(": {}", escape(reason.as_bytes())),
            };
            let what = match a.generation {
                0 => format!("generation {} stopped; none served before it", a.from_generation),
                generation => format!("generation {generation} serves again{}{}", commit_of(a), before(a)),
            };
            vec![at(&a.node, &format!("{what}{why}"))]
        }
        Event::Handoff { node, port, own_queue: Some(own), .. } => {
            vec![at(node, &format!("port {}: {}", esc(port), of_own_queue(*own)))]
        }
        Event::Handoff { node, port, step: HandoffStep::Leave, connections_handed_over, connections_drained, .. } => {
            moved(*connections_handed_over, *connections_drained)
                .map(|what| at(node, &format!("port {}: {what}", esc(port))))
                .into_iter()
                .collect()
        }
        Event::Handoff { node, port, queued, connections_drained, requests, lost, worst_ms, first_loss, .. } => {
            let stay = connections_drained
                .filter(|n| *n > 0)
                .map_or_else(String::new, |n| format!(", of the open ones {}", units::stay(n.into())));
            let loss = first_loss.as_ref().map_or_else(String::new, |loss| format!("; the first: {}", shorten(&esc(loss), 200)));
            let seen = requests.map_or_else(String::new, |n| {
                format!("; {}{loss}", units::requests(n, lost.unwrap_or(0), worst_ms.unwrap_or(0)))
            });
            vec![at(node, &format!("port {} went over, {queued} waiting connections taken{stay}{seen}", esc(port)))]
        }
        Event::Difference { node, path, kind, here, there } => {
            let text = format!("{:<10} {}  here {}, there {}", esc(kind), esc(path), short(here), short(there));
            vec![node.as_ref().map_or_else(|| format!("  {text}"), |node| at(node, &text))]
        }
        Event::Planned { node, action, bytes: n, reason, .. } => {
            let size = n.filter(|n| *n > 0).map_or_else(String::new, |n| format!("  {}", bytes(n)));
            let reason = if reason.is_empty() { String::new() } else { format!("  ({})", esc(reason)) };
            let text = format!("{}{size}{reason}", esc(action));
            vec![node.as_ref().map_or_else(|| format!("  {text}"), |node| at(node, &text))]
        }
        Event::PlannedCopy(p) => {
            let about = if p.estimated { "about " } else { "" };
            let size =
                p.bytes.filter(|n| *n > 0).map_or_else(String::new, |n| format!("  {about}{}, {}", bytes(n), seconds(p.seconds)));
            let reason = if p.reason.is_empty() { String::new() } else { format!("  ({})", esc(&p.reason)) };
            let text = format!("{}{size}{reason}", esc(&p.action));
            vec![p.node.as_ref().map_or_else(|| format!("  {text}"), |node| at(node, &text))]
        }
        Event::Stored(p) => vec![placed("stored", p)],
        Event::Collected(p) => vec![placed("collected", p)],
        Event::Repaired(p) => vec![placed("repaired", p)],
        Event::Missing(p) => vec![placed("missing", p)],
        Event::Log { node, line } => vec![format!("{} | {}", esc(node), esc(line))],
        Event::Check { what, ok, found, mend } => {
            let mark = if *ok { "ok  " } else { "LACK" };
            let mut lines = vec![format!("{mark}  {what:<24} {}", esc(found))];
            lines.extend(mend.iter().map(|mend| format!("      {:<24} -> {}", "", esc(mend))));
            lines
        }
        Event::Waiting { commit, exit } => {
            let ended = match exit {
                0 => "serves",
                _ => "did not come to serve",
            };
            vec![format!("{} {ended}; waiting for the next commit (Ctrl-C ends this)", commit.short())]
        }
        Event::Note { message } => vec![esc(message)],
        Event::Error { node, phase, message, serving, next, log } => {
            error(node.as_deref(), phase, message, serving.as_deref(), next.as_deref(), log)
        }
    }
}

/// Says what became of open connections; nothing where there were none.
fn moved(handed_over: Option<u32>, drained: Option<u32>) -> Option<String> {
    match (handed_over, drained) {
        (Some(0), Some(0) | None) | (None, Some(0)) => None,
        (None, _) => Some("the old version does not say how many connections it gave to the new one".into()),
        (Some(0), Some(stay)) => Some(format!("no connection went along, {}", units::stay(stay.into()))),
        (Some(went), Some(0) | None) => Some(units::went_along(went.into())),
        (Some(went), Some(stay)) => Some(format!("{}, {}", units::went_along(went.into()), units::stay(stay.into()))),
    }
}

fn error(
    node: Option<&str>,
    phase: &str,
    message: &str,
    serving: Option<&str>,
    next: Option<&str>,
    log: &[String],
) -> Vec<String> {
    let mut lines: Vec<String> = log.iter().map(|line| format!("  | {}", esc(line))).collect();
    let place = node.map_or_else(String::new, |node| format!("{}: ", esc(node)));
    lines.push(format!("df: {place}{}: {}", esc(phase), esc(message)));
    lines.extend(serving.map(|serving| format!("  serves now: {}", esc(serving))));
    lines.extend(next.map(|next| format!("  next: {}", esc(next))));
    lines
}

fn checked(
    commit: &CommitId,
    (image, again): (ImageId, ImageId),
    reproducible: bool,
    differs: &[String],
    differences: &[Difference],
) -> Vec<String> {
    if reproducible {
        return vec![format!("reproducible: image {} was built twice", image.short())];
    }
    let n = match differs.len() {
        1 => "1 path differs".to_owned(),
        n => format!("{n} paths differ"),
    };
    let (first, second) = (image.short(), again.short());
    let mut lines = vec![format!("not reproducible: {} was image {first}, and built again is {second}; {n}", commit.short())];
    // Their text is escaped where they are made.
    lines.extend(differences.iter().take(N_DIFFERENCES).flat_map(Difference::lines).map(|line| format!("  {line}")));
    match differences.len().saturating_sub(N_DIFFERENCES) {
        0 => {}
        n => lines.push(format!("  and {n} more (df build --check --json lists all)")),
    }
    lines
}

fn probe(probe: &ProbeOutcome) -> String {
    let mark = if probe.ok { "ok  " } else { "FAIL" };
    let detail = if probe.detail.is_empty() { String::new() } else { format!("  {}", shorten(&esc(&probe.detail), 200)) };
    format!("{mark} {}{detail}  {}", esc(&probe.name), seconds(probe.seconds))
}

fn placed(verb: &str, placed: &Placed) -> String {
    let what = match (placed.image, placed.digest, placed.generation) {
        (Some(image), _, Some(generation)) => format!("generation {generation}, image {}", image.short()),
        (None, _, Some(generation)) => format!("generation {generation}"),
        (Some(image), ..) => format!("image {}", image.short()),
        (None, Some(digest), _) => digest.short(),
        (None, None, None) => format!("{} objects", placed.objects),
    };
    let why = if placed.why.is_empty() { String::new() } else { format!("  ({})", esc(&placed.why)) };
    // A generation's bytes are its image's, which goes on its own line.
    let size = if placed.generation.is_some() { String::new() } else { format!("  {}", bytes(placed.bytes)) };
    at(&placed.place, &format!("{verb} {what}{size}{why}"))
}

fn at(node: &str, text: &str) -> String {
    format!("  {:<NODE_WIDTH$} {text}", esc(node))
}

fn pid_of(pid: Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(", process {pid}"))
}

fn commit_of(activation: &Activation) -> String {
    activation.commit.as_ref().map_or_else(String::new, |commit| format!(" {}", commit.short()))
}

/// Says what programs that bind by themselves cost their clients.
fn of_own_queue(own: OwnQueue) -> &'static str {
    match own {
        OwnQueue::Lost => {
            "both versions bind it by themselves: clients are spread over them, and who waits at the old one when it closes is lost, which nobody counts; with \
             net.ipv4.tcp_migrate_req=1 on the node the kernel gives them to the new one (Linux 5.14)"
        }
        OwnQueue::Moved => {
            "both versions bind it by themselves: clients are spread over them, and who waits at the old one when it closes goes to the new one (net.ipv4.tcp_migrate_req)"
        }
    }
}

fn before(activation: &Activation) -> String {
    match activation.from_generation {
        0 => String::new(),
        from if from == activation.generation => String::new(),
        from => format!(", before it {from}"),
    }
}

/// Shortens digests and commits, and escapes the rest.
fn short(text: &str) -> String {
    let is_id = |word: &str| matches!(word.len(), 40 | 64) && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = text.split(' ').map(|word| if is_id(word) { word[..12].to_owned() } else { esc(word) });
    words.collect::<Vec<_>>().join(" ")
}

fn esc(text: &str) -> String {
    escape(text.as_bytes())
}

#[cfg(test)]
mod tests;
