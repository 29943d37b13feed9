//! Real processes that try to get away.

use super::*;
use crate::launch::Limits;
use crate::launch::tests::{launcher, script};
use crate::process::{Exit, Process};
use std::process::{Command, Stdio};

const SOON: Duration = Duration::from_secs(20);

/// Leaves a process that has its own session and no parent, and that prints its number; what comes before it is how its program is started.
fn leaves(prefix: &str) -> String {
    format!("( setsid {prefix} sh -c 'echo $$; exec sleep 1000' & )")
}

/// Starts a script as a run, which prints a number for each of those that it leaves.
fn start(text: &str, n_left: usize, with_cgroup: bool) -> (Process, Vec<OwnedFd>) {
    let members = if with_cgroup { Members::new(Bounds::default()).unwrap() } else { Members::marked().unwrap() };
    start_as(members, text, n_left)
}

/// As [`start`], known by these.
fn start_as(members: Members, text: &str, n_left: usize) -> (Process, Vec<OwnedFd>) {
    let (reader, writer) = io::pipe().unwrap();
    let process = launcher().spawn_with(members, &script(text), &[], writer.as_fd(), SOON).unwrap();
    drop(writer);
    let mut lines = io::BufRead::lines(io::BufReader::new(reader));
    let numbers = (0..n_left).map(|_| lines.next().unwrap().unwrap().trim().parse::<i32>().unwrap());
    let held = numbers.map(|number| pidfd_open(Pid::from_raw(number).unwrap(), PidfdFlags::empty()).unwrap());
    let held = held.collect();
    (process, held)
}

/// Whether this machine lets us make cgroups.
fn has_cgroups() -> bool {
    Members::new(Bounds::default()).is_ok_and(|members| {
        members.forget();
        members.cgroup.is_some()
    })
}

/// Whether this machine lets us count what a run uses.
pub fn counts() -> bool {
    Members::new(Bounds { memory: Some(1 << 30), pids: Some(1000) }).is_ok_and(|members| {
        members.forget();
        members.memory_is_kept() && members.pids_are_kept()
    })
}

fn end(process: &Process) {
    process.kill_all().unwrap();
    assert!(process.wait(SOON).unwrap().is_some());
}

#[test]
fn who_left_its_group_and_its_parents_is_found_by_its_mark() {
    for text in [format!("{}; exec sleep 1000", leaves("")), leaves("")] {
        let (process, left) = start(&text, 1, false);
        assert!(is_alive(&left[0]));
        end(&process);
        assert!(!is_alive(&left[0]), "{text}");
    }
}

#[test]
fn without_its_mark_it_gets_away_in_the_same_harness() {
    let (process, left) = start(&format!("{}; exec sleep 1000", leaves("env -u DF_RUN")), 1, false);
    end(&process);
    assert!(is_alive(&left[0]), "the control lost nobody: the harness would not see it");
    send(&left[0], Signal::KILL);
}

#[test]
fn whoever_is_in_the_cgroup_is_found_also_without_an_environment() {
    if !has_cgroups() {
        eprintln!("this machine lets us make no cgroup");
        return;
    }
    let (process, left) = start(&format!("{}; {}", leaves("env -i"), leaves("")), 2, true);
    let cgroup = process.record().members.cgroup().expect("it has one").to_owned();
    end(&process);
    assert!(left.iter().all(|pidfd| !is_alive(pidfd)));
    assert!(!cgroup.exists(), "an empty cgroup is left");
}

#[test]
fn children_of_a_program_that_gave_itself_another_environment_are_found_by_descent() {
    let child = "exec env -i sh -c 'setsid sh -c \"echo \\$\\$; exec sleep 1000\" & exec sleep 1000'";
    let (process, left) = start(child, 1, false);
    end(&process);
    assert!(!is_alive(&left[0]));
}

#[test]
fn who_starts_the_next_and_ends_is_caught_in_its_cgroup() {
    if !has_cgroups() {
        eprintln!("this machine lets us make no cgroup");
        return;
    }
    // Each has another number than the one before, and is gone when it is looked at: whoever killed only what it saw would come too late each time.
    let next = "sh -c \"$0\" \"$0\" &";
    let (process, _) = start(&format!("N='{next}'; setsid sh -c \"$N\" \"$N\" & exec sleep 1000"), 0, true);
    let members = process.record().members.clone();
    end(&process);
    assert!(members.find(&|| None).is_empty());
}

#[test]
fn a_tree_that_grows_while_it_is_cut_down_is_ended() {
    let (process, left) = start(
        &format!(
            "for n in 1 2 3 4 5 6 7 8; do {}; done; i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; wait",
            leaves("")
        ),
        8,
        false,
    );
    let members = process.record().members.clone();
    end(&process);
    assert!(left.iter().all(|pidfd| !is_alive(pidfd)));
    assert!(members.find(&|| None).is_empty());
}

#[test]
fn a_run_that_has_another_mark_or_names_it_elsewhere_is_left_alone() {
    let (process, left) = start(&format!("{}; exec sleep 1000", leaves("")), 1, false);
    let mark = process.record().members.mark().to_owned();
    let bystander = |variable: &str, value: &str| {
        let mut command = Command::new("sh");
        command.env(variable, value).args(["-c", "exec sleep 1000", &format!("{MARK}={mark}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut others =
        [bystander(MARK, &format!("{mark}0")), bystander(MARK, &mark[1..]), bystander(MARK, ""), bystander("NOT_DF_RUN", &mark)];
    end(&process);
    assert!(!is_alive(&left[0]));
    for other in &mut others {
        assert!(other.try_wait().unwrap().is_none(), "a process was killed that is none of the run");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

#[test]
fn nobody_belongs_to_a_run_without_a_mark() {
    let members = Members::default();
    assert!(members.find(&|| None).is_empty() && members.end(&|| None, SOON));
    assert!(!members.carries(std::process::id()));
}

#[test]
fn all_are_stopped_before_one_is_killed() {
    let set = |pids: &[u32]| pids.iter().copied().collect::<BTreeSet<u32>>();
    assert_eq!(next(&set(&[]), &set(&[])), Next::Done);
    assert_eq!(next(&set(&[]), &set(&[4])), Next::Kill);
    assert_eq!(next(&set(&[4, 5]), &set(&[4])), Next::Stop(vec![5]));
    assert_eq!(next(&set(&[4]), &set(&[4, 5])), Next::Kill);
}

/// Runs a script within bounds; returns how it ended, and what it ran into. Its groups are gone then.
fn run_within(bounds: Bounds, text: &str) -> (Exit, Option<String>) {
    let log = tempfile::tempfile().unwrap();
    let mut spec = script(text);
    spec.limits = Limits { nofile: None, memory: bounds.memory, pids: bounds.pids };
    let process = launcher().spawn(&spec, &[], log.as_fd(), SOON).unwrap();
    let groups: Vec<PathBuf> = process.record().members.counting().map(Path::to_owned).collect();
    let exit = process.wait(SOON).unwrap().expect("it ends");
    let exceeded = process.exceeded().map(|exceeded| exceeded.to_string());
    end(&process);
    assert!(!groups.is_empty() && groups.iter().all(|group| !group.exists()), "{groups:?} are left");
    (exit, exceeded)
}

/// Four processes that take 20 MB each and keep them: ends when all four have them, or one was killed.
const FOUR: &str = "{ for n in 1 2 3 4; do head -c 20000000 /dev/zero | tail -c 20000000 | { head -c 1 > /dev/null; echo; exec sleep 1000; } & done; } \
                    | { read a; read b; read c; read d; exit 0; }";

#[test]
fn who_forks_does_not_get_around_a_limit_of_memory() {
    if !counts() {
        return eprintln!("this machine lets us count nothing");
    }
    let within = |mib: u64| run_within(Bounds { memory: Some(mib << 20), pids: None }, FOUR).1;
    assert_eq!(within(400), None, "the control has room");
    let said = within(48).expect("four are more than the limit");
    assert!(
        said.starts_with("out of memory: run.limits.memory is 48M for all its processes together, and the kernel killed "),
        "{said}"
    );
}

#[test]
fn one_process_more_than_the_limit_is_refused_and_said() {
    if !counts() {
        return eprintln!("this machine lets us count nothing");
    }
    let three = "sleep 1000 & sleep 1000 & sleep 1000 & exit 0";
    let within = |pids: u64| run_within(Bounds { memory: None, pids: Some(pids) }, three);
    assert_eq!(within(4), (Exit::Code(0), None));
    let (exit, said) = within(3);
    assert_ne!(exit, Exit::Code(0), "the shell could not fork");
    assert_eq!(said.as_deref(), Some("out of processes: run.limits.pids is 3, or a group above it allows fewer"));
}

/// Returns what belongs to a run whose group counts, from what its supervisor has written down.
fn recorded(group: &Path) -> Members {
    let bound = serde_json::json!({ "group": group, "limit": 1 << 20 });
    serde_json::from_value(serde_json::json!({ "mark": "m", "cgroup": group, "kept": { "memory": bound } })).unwrap()
}

#[test]
fn what_a_program_ran_into_that_died_at_once_is_still_there_to_be_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
    let mut counts = recorded(dir.path());
    counts.settle();
    assert_eq!(counts.cgroup(), Some(dir.path()));
    let mut counts_nothing = Members { kept: Kept::default(), ..counts };
    counts_nothing.settle();
    assert_eq!(counts_nothing.cgroup(), None, "nobody has entered it");
}

#[test]
fn who_was_moved_elsewhere_is_not_counted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cgroup.procs"), "17\n18\n").unwrap();
    let members = recorded(dir.path());
    assert!(members.is_counted(17) && !members.is_counted(1));
    assert!(Members::default().is_counted(1), "nothing is to be kept");
}

#[test]
fn without_the_second_version_the_groups_that_count_tell_who_belongs_to_a_run() {
    let mut members = Members::marked().unwrap();
    members.kept = bounds::keep(Bounds { memory: None, pids: Some(100) }, &members.mark, None);
    if !members.pids_are_kept() {
        return eprintln!("this machine has no first version of control groups, or lets us make none");
    }
    let (process, left) = start_as(members, &format!("{}; exec sleep 1000", leaves("env -u DF_RUN")), 1);
    end(&process);
    assert!(!is_alive(&left[0]), "it cleared its environment and lost its parents");
}
