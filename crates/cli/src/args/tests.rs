use std::os::unix::ffi::OsStrExt;

use clap::Command as Grammar;

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

#[track_caller]
fn read(line: &str) -> Cli {
    parse(&words(line)).unwrap_or_else(|error| panic!("df {line}\n{error}"))
}

#[track_caller]
fn refused(line: &str) -> String {
    match parse(&words(line)) {
        Ok(_) => panic!("df {line} was accepted"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "df {line}");
            error.to_string()
        }
    }
}

#[test]
fn the_grammar_is_sound() {
    grammar().debug_assert();
}

#[test]
fn no_global_flag_takes_a_name_of_gnu_df() {
    let letters = "aBhHiklPtTx";
    let longs = [
        "all",
        "block-size",
        "human-readable",
        "si",
        "inodes",
        "local",
        "no-sync",
        "output",
        "portability",
        "sync",
        "total",
        "type",
        "print-type",
        "exclude-type",
    ];
    for arg in grammar().get_arguments() {
        let id = arg.get_id();
        // GNU df ignores its -v; ours is one only before or after a command of ours.
        assert!(arg.get_short().is_none_or(|letter| !letters.contains(letter)), "-{:?} of {id}", arg.get_short());
        assert!(arg.get_long().is_none_or(|long| !longs.contains(&long)), "--{:?} of {id}", arg.get_long());
        assert!(
            arg.get_all_short_aliases().unwrap_or_default().is_empty() && arg.get_all_aliases().unwrap_or_default().is_empty()
        );
    }
}

#[test]
fn the_decision_and_the_grammar_know_the_same_words() {
    let mut grammar = grammar();
    grammar.build();
    let mut ours: Vec<String> = grammar.get_subcommands().flat_map(names).collect();
    let mut decided: Vec<String> = name::COMMANDS.iter().map(|word| word.name.to_owned()).collect();
    ours.sort();
    decided.sort();
    assert_eq!(ours, decided);
}

fn names(command: &Grammar) -> impl Iterator<Item = String> {
    std::iter::once(command.get_name()).chain(command.get_all_aliases()).map(str::to_owned)
}

#[test]
fn the_decision_and_the_grammar_know_the_same_flags() {
    let mut ours: Vec<_> = grammar()
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .map(|arg| (arg.get_short(), arg.get_long().map(str::to_owned), arg.get_action().takes_values()))
        .collect();
    let mut decided: Vec<_> = name::GLOBAL_FLAGS
        .iter()
        .map(|flag| (flag.letter.map(char::from), flag.long.map(str::to_owned), flag.takes_value))
        .collect();
    ours.sort();
    decided.sort();
    assert_eq!(ours, decided);
}

#[test]
fn every_form_of_the_contract_is_read() {
    let lines = [
        "init",
        "add host",
        "add ssh://u@h:22/r --name n --listen 127.0.0.1 --sudo",
        "add local:/x",
        "remove n",
        "rm n",
        "list nodes",
        "ls nodes",
        "list versions",
        "ls versions",
        "with",
        "with a b",
        "with --pop",
        "with --clear",
        "build",
        "build --check",
        "build --commit-hash abc --output link",
        "cp",
        "cp --full --version v",
        "start",
        "stop",
        "stop --all --now",
        "restart",
        "compare-checksums",
        "verify",
        "deploy",
        "deploy --commit-hash H",
        "deploy --version V",
        "rollback",
        "rollback --to 3",
        "rollback --to 3 --force",
        "rollback --pick",
        "deploy --watch",
        "deploy --watch --commit-hash main",
        "repair",
        "repair --full-copy --watch",
        "gc",
        "gc --count 2 --older 30d --why",
        "gc --older 2026-01-31",
        "status",
        "logs",
        "logs -f -n 20",
        "history",
        "build --sign",
        "build --sign --key k",
        "trust",
        "trust --sign",
        "trust --sign --key k",
        "trust --send",
        "cache flush",
        "cache put",
        "cache put v",
        "cache put x.tar",
        "cache get v --output d --tar",
        "cache get",
        "cache diff",
        "cache update",
        "cache repair",
        "cache gc --count 1 --older 2026-01-31",
        "cache verify",
        "cache verify --quick",
        "cache verify --sample 3",
        "cache verify --slice 3",
        "cache gc --why",
        "cache persist",
        "cache persist --s3-bucket b --single-writer",
        "hook install",
        "hook install --branch main --deploy",
        "cp --through-cache",
        "cache status",
        "completions bash",
        "completions zsh",
        "completions fish",
        "man d",
        "doctor",
        "__complete nodes",
        "__complete versions",
        "__prepare",
        "cp --codec elf --level small",
        "deploy --codec whole",
    ];
    for line in lines {
        read(line);
    }
}

#[test]
fn what_does_not_work_yet_is_not_there() {
    for line in
        ["provision --backend x", "destroy n", "containerize", "plan", "cp --codec c", "cp --level best", "cp --full --codec elf"]
    {
        refused(line);
    }
}

#[test]
fn wrong_words_are_refused() {
    for line in [
        "buil",
        "build x",
        "build --key k",
        "trust --key k",
        "trust --sign --send",
        "dep",
        "ls",
        "ls node",
        "cache",
        "cache pu",
        "with a --pop",
        "with --pop --clear",
        "deploy --version a --commit-hash b",
        "deploy --version a --watch",
        "rollback --pick --to 3",
        "add",
        "add --name x",
        "add -x",
        "add h --listen host",
        "completions csh",
        "man",
        "--parallel 0 cp",
        "--timeout 30 cp",
        "--timeout x cp",
        "--color sometimes cp",
        "gc --older soon",
        "gc --count -1",
        "build --js",
        "build --commit=x",
        "rollback --to -1",
        "logs -n -5",
        "build -a",
        "cp --json=x",
        "",
        "--json",
    ] {
        refused(line);
    }
    let error = refused("deploy --timeout 5x");
    assert!(error.contains("30s, 5m, 2h or 30d"), "{error}");
}

#[test]
fn global_flags_stand_before_and_after_the_command() {
    for line in [
        "-C d --json --timeout 30s -q cp",
        "cp -C d --json --timeout 30s -q",
        "-Cd --json cp -q --timeout=30s",
        "-qCd cp --json --timeout 30s",
    ] {
        let globals = read(line).globals;
        assert_eq!((globals.dir, globals.json, globals.quiet), (Some("d".into()), true, true), "{line}");
        assert_eq!(globals.timeout, Some(Duration::from_secs(30)), "{line}");
    }
    for line in [
        "--address a --address b cache get v --address c",
        "--address a cache --address b get v --address=c",
        "cache --address a --address=b --address c get v",
        "cache get v --address a --address b --address c",
    ] {
        assert_eq!(read(line).globals.address, ["a", "b", "c"], "{line}");
    }
    assert_eq!(read("-v cp -vv").globals.verbose, 3);
    // An alias may hold a flag that is typed again; the last value counts.
    assert!(read("--json cp --json").globals.json);
    assert_eq!(read("-C a --color never cp -C b").globals.dir, Some("b".into()));
    assert_eq!(read("cp").globals.color, Color::Auto);
    assert_eq!(read("--color never cp").globals.color, Color::Never);
    assert_eq!(read("--parallel 3 ls --json nodes").globals.parallel.map(NonZeroUsize::get), Some(3));
}

#[test]
fn a_rollback_goes_to_a_generation_or_a_commit() {
    let table = [
        ("12", RollbackTo::Generation(12)),
        ("999999", RollbackTo::Generation(999_999)),
        ("1234567", RollbackTo::Commit("1234567".into())),
        ("3f2a9c1", RollbackTo::Commit("3f2a9c1".into())),
        ("+12", RollbackTo::Commit("+12".into())),
    ];
    for (word, expected) in table {
        let Command::Rollback(rollback) = read(&format!("rollback --to {word}")).command else { panic!("another command") };
        assert_eq!(rollback.to, Some(expected));
    }
}

#[test]
fn hostile_words_are_refused_not_kept() {
    for address in [&b"a\nb"[..], b"a\x1b[2J", b"\xff", b"", b"-oProxyCommand=x"] {
        let mut args = words("rm --");
        args.push(std::ffi::OsStr::from_bytes(address).to_owned());
        assert_eq!(parse(&args).map(|_| ()).map_err(|error| error.exit_code()), Err(2), "{address:?}");
    }
    let long = "x".repeat(word::MAX_TEXT_BYTES + 1);
    assert!(parse(&[OsString::from("rm"), long.into()]).is_err());
    // Paths are whatever the system takes.
    let path = std::ffi::OsStr::from_bytes(b"-C\xff").to_owned();
    assert_eq!(parse(&[path, "cp".into()]).expect("a path").globals.dir, Some(std::ffi::OsStr::from_bytes(b"\xff").into()));
}

#[test]
fn a_command_explains_itself() {
    for line in [
        "build --help",
        "build -h",
        "cache --help",
        "cache put -h",
        "help build",
        "help cache put",
        "--json cp --help",
        "ls nodes -h",
    ] {
        let error = parse(&words(line)).map(|_| ()).expect_err("help is printed instead");
        assert_eq!((error.kind(), error.exit_code()), (clap::error::ErrorKind::DisplayHelp, 0), "df {line}");
    }
}

#[test]
fn help_of_a_command_is_one_sentence_each() {
    let mut grammar = grammar();
    grammar.build();
    for command in grammar.get_subcommands().filter(|command| command.get_name() != "help") {
        let about = command.get_about().expect("a sentence").to_string();
        assert!(!about.ends_with('.') && about.len() < 110, "{about}");
    }
}

#[test]
fn no_word_is_taken_for_a_global_flag() {
    let globals: Vec<String> =
        grammar().get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().to_string()).collect();
    assert!(globals.len() > 10);
    fn check(command: &clap::Command, globals: &[String]) {
        for arg in command.get_arguments() {
            let id = arg.get_id().to_string();
            assert!(!globals.contains(&id), "`{id}` of {} hides a global flag", command.get_name());
        }
        command.get_subcommands().for_each(|command| check(command, globals));
    }
    grammar().get_subcommands().for_each(|command| check(command, &globals));
}
