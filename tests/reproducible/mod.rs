//! The same commit is the same image, whoever builds it, where, when and on how many cores.
//!
//! All that may differ differs at once, in two worlds (see `worlds.rs`, and `strange.sh` for the list). A world shows that it differs, and plain cargo
//! shows that the difference reaches programs: what `df` builds is compared by the function that finds what cargo built to be unequal.

mod project;
mod worlds;

use std::time::Duration;

use project::{ONE_BYTE, PUBLISHED, Project, small};
use worlds::{Image, World};

/// Compiling everything from nothing on one busy core.
const BUILD_DEADLINE: Duration = Duration::from_secs(1800);

#[test]
fn the_two_worlds_differ_in_all_that_a_program_can_see() {
    let project = small("seen");
    let (plain, strange) = (World::plain().look(project.repo.dir()), World::strange().look(project.repo.dir()));
    println!("{}\n\n{}", plain.join("\n"), strange.join("\n"));
    assert_eq!((plain.len(), strange.len()), (13, 13));
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    for (plain, strange) in plain.iter().zip(&strange).filter(|(plain, _)| n_cores > 1 || !plain.starts_with("cores ")) {
        assert_ne!(plain, strange);
    }
}

#[test]
fn one_commit_is_one_image_in_two_worlds() {
    let project = small("small");
    let (path, old, new) = ONE_BYTE;
    let text = std::fs::read_to_string(project.repo.dir().join(path)).expect("a file of the project");
    let changed = project.repo.commit(&[(path, &text.replacen(old, new, 1))], "one byte, by times that are those of before");
    let first = project.commit.as_str();
    // Each builds one of the two after the other, with whatever its cache then holds of it.
    let plain = World::plain().build(project.repo.dir(), &[first, &changed], BUILD_DEADLINE);
    let strange = World::strange().build(project.repo.dir(), &[&changed, first], BUILD_DEADLINE);
    expect_equal("the first commit", &plain[0], &strange[1]);
    expect_equal("the changed commit", &plain[1], &strange[0]);
    assert_ne!(plain[0].id, plain[1].id, "a changed byte is a changed image");
    assert_ne!(plain[0].differences(&plain[1]), []);

    project.repo.commit(&[(path, &text)], "as it was");
    let again = project.repo.head_commit().expect("a commit");
    let again = World::plain().build(project.repo.dir(), &[&again], BUILD_DEADLINE);
    expect_equal("another commit of the same tree", &plain[0], &again[0]);
}

#[test]
fn plain_cargo_gives_each_world_its_own_program() {
    expect_cargo_differs(&small("control"));
}

/// `DF_FULL=1` lets it run: it compiles each project twice from nothing.
#[test]
fn published_projects_are_one_image_each_in_two_worlds() {
    if std::env::var_os("DF_FULL").is_none() {
        return;
    }
    for published in &PUBLISHED {
        let project = published.project();
        let [plain, strange] = [World::plain(), World::strange()].map(|world| {
            let mut images = world.build(project.repo.dir(), &[&project.commit], BUILD_DEADLINE);
            images.pop().expect("one commit, one image")
        });
        expect_equal(project.program, &plain, &strange);
        println!("{} is {} in both worlds", project.program, plain.id);
    }
    expect_cargo_differs(&PUBLISHED[0].project());
}

/// The control: the same two worlds, the same comparison, and nothing that makes builds equal.
#[track_caller]
fn expect_cargo_differs(project: &Project) {
    let [plain, strange] =
        [World::plain(), World::strange()].map(|world| world.cargo_build(project.repo.dir(), &[project.program], BUILD_DEADLINE));
    assert_ne!(plain.differences(&strange), [], "plain cargo built {} alike in both worlds: they prove nothing", project.program);
}

#[track_caller]
fn expect_equal(what: &str, first: &Image, second: &Image) {
    assert_eq!(first.differences(second), [], "{what} is not the same in both worlds");
    assert_eq!(first.id, second.id, "{what}: equal files, other image");
    assert_eq!(first.id.len(), 64, "{what}: {} is no image's id", first.id);
}
