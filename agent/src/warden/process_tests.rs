use std::os::unix::ffi::OsStringExt as _;

use super::*;

#[test]
fn a_name_with_parentheses_does_not_move_the_start_time() {
    let fields = |name: &str| {
        format!("7 ({name}) S {} 4711 99 98", (4..=21).map(|n| n.to_string()).collect::<Vec<_>>().join(" "))
    };
    for name in ["psql", "a b", ") S 1 2 3 (", "((", "x) R 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"] {
        assert_eq!(start_ticks(&fields(name)), Some(4711), "{name}");
    }
    assert_eq!(start_ticks("7 (psql) S 1 2"), None);
    assert_eq!(start_ticks(""), None);
}

#[test]
fn status_gives_the_real_user_and_all_groups() {
    let status = "Name:\tUid:\t0\nUid:\t1000\t0\t0\t0\nGid:\t1001\t0\t0\t0\nGroups:\t27 1001 \n";
    // A process can choose its name, but the line begins with `Name:`.
    assert_eq!(Status::parse(status), Some(Status { uid: 1000, gid: 1001, groups: vec![27, 1001] }));
    assert_eq!(Status::parse("Uid:\t1\nGid:\t2\nGroups:\t\n"), Some(Status { uid: 1, gid: 2, groups: Vec::new() }));
    for broken in ["", "Uid:\t1\nGid:\t2\n", "Uid:\tx\nGid:\t2\nGroups:\n", "Uid:\t1\nGid:\t2\nGroups:\t3 x\n"] {
        assert_eq!(Status::parse(broken), None, "{broken}");
    }
}

#[test]
fn groups_have_names_and_numbers() {
    let names = names(&Status { uid: 0, gid: 0, groups: vec![4_000_000_000] });
    assert_eq!(names, ["0", "4000000000", "root"].map(String::from).into());
}

#[test]
fn arguments_may_be_empty_or_cut() {
    assert_eq!(arguments(b"psql\0-c\0\0select\0"), ["psql", "-c", "", "select"]);
    assert_eq!(arguments(b"psql\0-c\0sel"), ["psql", "-c", "sel"]);
    assert_eq!(arguments(b""), Vec::<String>::new());
    assert_eq!(arguments(b"\xff\0"), ["\u{fffd}"]);
}

#[test]
fn a_path_that_had_to_be_changed_is_not_exact() {
    assert_eq!(lossy("/usr/bin/psql".into()), ("/usr/bin/psql".into(), true));
    let (path, exact) = lossy(OsString::from_vec(b"/usr/bin/\xff".to_vec()));
    assert_eq!((path, exact), ("/usr/bin/\u{fffd}".into(), false));
}

#[test]
fn only_file_systems_on_own_disks_are_local() {
    let mounts = "36 35 98:0 / / rw,noatime shared:1 - ext4 /dev/root rw\n\
                  37 36 0:40 / /remote rw - nfs4 server:/ rw\n\
                  38 36 0:41 / /odd\\040- rw master:2 - fuse.ext4 x rw\n";
    assert!(local(mounts, 36));
    assert!(!local(mounts, 37));
    assert!(!local(mounts, 38));
    assert!(!local(mounts, 3));
}

#[test]
fn this_process_can_be_read() {
    let examiner = Examiner::new("/nowhere".into());
    let proc = Proc::open(std::process::id()).expect("a process");
    let executable = examiner.executable(&proc).expect("an executable");
    assert_eq!(executable.path, std::env::current_exe().expect("a path"));
    assert!(executable.verified);
    assert!(examiner.start(&proc).expect("a start") > 0);
    assert_eq!(Proc::open(u32::MAX).err(), Some(Reason::Gone(Gone::Ended)));
}
