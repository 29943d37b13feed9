use super::*;

fn layout(root: &str, is_machine: bool) -> Layout {
    let beside = |name: &str| PathBuf::from(format!("{root}{name}"));
    Layout { root: root.into(), data: beside("-data"), tmp: beside("-tmp"), is_machine }
}

/// A machine where root has a node.
fn root() -> Found {
    Found {
        has_systemd: true,
        is_root: true,
        user: "root".into(),
        lingers: false,
        has_user_systemd: false,
        units: "/etc/systemd/system".into(),
        usual_root: "/var/lib/df".into(),
        program: "/var/lib/df/bin/df-node-0123".into(),
    }
}

/// A machine where somebody else has one.
fn op() -> Found {
    Found {
        is_root: false,
        user: "op".into(),
        lingers: true,
        has_user_systemd: true,
        units: "/home/op/.config/systemd/user".into(),
        usual_root: "/home/op/.local/share/df".into(),
        program: "/home/op/.local/share/df/bin/df-node-0123".into(),
        ..root()
    }
}

#[test]
fn the_units_of_root_and_of_a_user_are_these() {
    let unit = choose(&layout("/var/lib/df", true), &root()).expect("a unit");
    assert_eq!(unit.text, include_str!("testdata/system.service"));
    assert_eq!(unit.file, Path::new("/etc/systemd/system/df-node.service"));
    assert_eq!(unit.wanted_by, Path::new("/etc/systemd/system/multi-user.target.wants/df-node.service"));
    let unit = choose(&layout("/home/op/.local/share/df", true), &op()).expect("a unit");
    assert_eq!(unit.text, include_str!("testdata/user.service"));
    assert_eq!(unit.file, Path::new("/home/op/.config/systemd/user/df-node.service"));
    assert_eq!(unit.scope, Scope::User);
}

#[test]
fn nodes_at_other_places_have_units_of_their_own() {
    let name = |root_dir: &str| choose(&layout(root_dir, true), &root()).expect("a unit").name;
    let (one, other) = (name("/srv/one"), name("/srv/other"));
    assert_ne!(one, other);
    assert!(one.starts_with("df-node-") && one.ends_with(".service") && one.len() == "df-node-.service".len() + 12, "{one}");
}

#[test]
fn where_programs_would_end_with_a_session_there_is_no_unit() {
    let layout = layout("/home/op/.local/share/df", true);
    let why = |found: Found| choose(&layout, &found).expect_err("none").to_string();
    assert_eq!(why(Found { has_systemd: false, ..op() }), "systemd does not run here");
    assert_eq!(
        why(Found { lingers: false, has_user_systemd: true, ..op() }),
        "the services of op end when op logs out: loginctl enable-linger op"
    );
    assert_eq!(why(Found { has_user_systemd: false, ..op() }), "the systemd of op does not run");
}

#[test]
fn what_a_path_holds_is_no_order_to_systemd() {
    let unit = choose(&layout("/srv/a \"b\" %n $HOME \\x41", true), &root()).expect("a unit");
    let line = |start: &str| unit.text.lines().find(|line| line.starts_with(start)).expect("there").to_owned();
    let quoted = r#""/srv/a \"b\" %%n $$HOME \\x41"#;
    assert_eq!(
        line("ExecStart="),
        format!(
            r#"ExecStart="/var/lib/df/bin/df-node-0123" supervise --root {quoted}" --data {quoted}-data" --tmp {quoted}-tmp""#
        )
    );
    assert_eq!(line("StandardOutput="), "StandardOutput=append:/srv/a \"b\" %%n $HOME \\x41/log/supervisor.log");
    for bad in ["/srv/a\nExecStartPre=/bin/sh", "/srv/\u{7f}"] {
        assert!(matches!(choose(&layout(bad, true), &root()), Err(WhyNot::Path(_))), "{bad:?}");
    }
}

/// A machine whose units lie in a directory of ours.
fn with_units(dir: &Path) -> Found {
    Found { units: dir.to_owned(), ..root() }
}

#[test]
fn what_starts_it_after_a_boot_is_seen_from_what_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let found = with_units(dir.path());
    let (machine, directory) = (layout("/var/lib/df", true), layout("/var/lib/df", false));
    let unit = "df-node.service".to_owned();
    assert_eq!(boot(&machine, &found), Boot::Later { unit: unit.clone() });
    assert_eq!(boot(&directory, &found), Boot::Nothing);
    assert_eq!(boot(&machine, &Found { has_systemd: false, ..found.clone() }), Boot::Nothing);
    assert_eq!(boot(&machine, &Found { lingers: false, ..op() }), Boot::NotLingering { user: "op".into() });
    let there = choose(&machine, &found).expect("a unit");
    std::fs::write(&there.file, "").expect("written");
    assert_eq!(boot(&directory, &found), Boot::Unit { unit: unit.clone(), user: false, enabled: false });
    std::fs::create_dir(there.wanted_by.parent().expect("a parent")).expect("made");
    std::os::unix::fs::symlink("nowhere", &there.wanted_by).expect("made");
    assert_eq!(boot(&machine, &found), Boot::Unit { unit, user: false, enabled: true });
}
