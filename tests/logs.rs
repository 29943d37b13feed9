//! What programs write is kept in a size that does not grow, and who follows it hears it whichever version serves.

use std::os::unix::fs::MetadataExt as _;

use df_testkit::process::{Child, wait_until};

use crate::support::odd_versions::odd;
use crate::support::{DEADLINE, World};

/// What a log takes at most, but for what is written between two looks at it.
const LOG_LEN: u64 = 32 << 20;

on_both! {
    who_follows_the_logs_hears_the_next_version_and_which_generation_it_is on odd().repo();
    a_program_that_writes_and_does_not_end_does_not_fill_the_disk on odd().repo();
}

fn wait_for(child: &Child, text: &str) {
    let shown = wait_until(DEADLINE, || child.stdout().contains(text).then_some(()));
    assert!(shown.is_some(), "{text:?} never came: {} {}", child.stdout(), child.stderr());
}

fn who_follows_the_logs_hears_the_next_version_and_which_generation_it_is(world: &World) {
    world.deploy(odd().good());
    let mut follow = world.df(["logs", "-f"]).spawn();
    wait_for(&follow, "odd: good\n");
    world.deploy(&odd().commit("told", "", ""));
    wait_for(&follow, "df-node: generation 2 serves now, in the place of 1\nodd: told\n");
    world.df(["rollback"]).ok();
    wait_for(&follow, "in the place of 2\nodd: good\n");
    follow.signal(libc::SIGINT);
    follow.finish(DEADLINE).expect_code(0);
}

fn a_program_that_writes_and_does_not_end_does_not_fill_the_disk(world: &World) {
    world.deploy(&odd().commit("told", "", ""));
    let mut follow = world.df(["logs", "-f"]).spawn();
    wait_for(&follow, "odd: told\n");
    let before = world.get(1, "/").1;
    std::fs::write(world.data(1).join("odd/talks"), "").expect("written");
    wait_for(&follow, "odd: talked\n");
    let log = world.node(1).join("log/odd/1.log");
    let taken = || std::fs::metadata(&log).expect("a log").blocks() * 512;
    let bounded = wait_until(DEADLINE, || (taken() <= LOG_LEN).then_some(()));
    assert!(bounded.is_some(), "{} bytes", taken());
    assert!(taken() >= LOG_LEN / 2, "the end of it is kept");
    assert!(world.df(["logs", "-n", "1"]).ok().stdout.ends_with("odd: talked\n"));
    assert_eq!(world.get(1, "/").1, before, "it was not started again");
    // Whoever followed before hears what comes now.
    std::fs::write(world.data(1).join("odd/dies"), "").expect("written");
    let twice = wait_until(DEADLINE, || (follow.stdout().matches("odd: told\n").count() > 1).then_some(()));
    assert!(twice.is_some(), "{}", follow.stderr());
    follow.signal(libc::SIGINT);
    follow.finish(DEADLINE).expect_code(0);
}
