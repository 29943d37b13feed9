//! Real processes that try to get away.

use super::*;
use crate::launch::tests::{launcher, script};
use crate::process::Process;
use std::process::{Command, Stdio};

const SOON: Duration = Duration::from_secs(20);

/// Leaves a process that has its own session and no parent, and that prints its number; what comes before it is how its program is started.
fn leaves(prefix: &str) -> String {
    format!("( setsid {prefix} sh -c 'echo $$; exec sleep 1000' & )")
}

/// Starts a script as a run, which prints a number for each of those that it leaves.
fn start(text: &str, n_left: usize, with_cgroup: bool) -> (Process, Vec<OwnedFd>) {
    let (reader, writer) = io::pipe().unwrap();
    let members = if with_cgroup { Members::new().unwrap() } else { Members::marked().unwrap() };
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
    Members::new().is_ok_and(|members| {
        members.forget();
        members.cgroup.is_some()
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
