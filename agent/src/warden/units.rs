//! Cgroup path -> unit. A unit of the system manager is a fact; one of a user's own manager is named by that user.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// The v2 line of `/proc/PID/cgroup`: `0::/system.slice/orders-agent.service`.
pub(super) fn own_cgroup(lines: &str) -> Option<String> {
    lines.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Unit of the system manager and unit of a user's manager, of a process in this cgroup.
///
/// The former only if root owns the cgroup: below one that was delegated, its user makes cgroups of any name.
pub(super) fn units(root: &Path, cgroup: &str) -> (Option<String>, Option<String>) {
    let Some((directory, unit)) = system_unit(cgroup) else { return (None, None) };
    if let Some(inner) = cgroup.strip_prefix(directory).filter(|_| is_user_manager(directory, unit)) {
        return (None, first_unit(inner).map(|(_, unit)| unit.to_owned()));
    }
    let owned = fs::symlink_metadata(root.join(directory.trim_start_matches('/'))).is_ok_and(|found| found.uid() == 0);
    let users = directory.starts_with("/user.slice/");
    ((owned && !users).then(|| unit.to_owned()), None)
}

/// The first component that is not a slice, with the path up to and including it.
fn system_unit(cgroup: &str) -> Option<(&str, &str)> {
    first_unit(cgroup).map(|(end, unit)| (&cgroup[..end], unit))
}

/// The first component that is not a slice, if it is a service or a scope, and where it ends.
fn first_unit(path: &str) -> Option<(usize, &str)> {
    let mut end = 0;
    for component in path.strip_prefix('/')?.split('/') {
        end += 1 + component.len();
        if !component.ends_with(".slice") {
            let unit = component.ends_with(".service") || component.ends_with(".scope");
            return unit.then_some((end, component));
        }
    }
    None
}

/// `/user.slice/user-1000.slice/user@1000.service`
fn is_user_manager(directory: &str, unit: &str) -> bool {
    directory.starts_with("/user.slice/") && unit.starts_with("user@") && unit.ends_with(".service")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root in which every cgroup of these tests exists and belongs to whoever runs them.
    fn found(cgroup: &str) -> (Option<String>, Option<String>) {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join(cgroup.trim_start_matches('/'))).expect("a cgroup");
        units(root.path(), cgroup)
    }

    fn some(unit: &str) -> Option<String> {
        Some(unit.to_owned())
    }

    #[test]
    fn a_unit_is_the_first_component_that_is_not_a_slice() {
        assert!(nix::unistd::geteuid().is_root(), "the owner of a cgroup decides; run this as root");
        assert_eq!(found("/system.slice/orders.service"), (some("orders.service"), None));
        assert_eq!(found("/system.slice/system-orders.slice/orders@1.service/inner"), (some("orders@1.service"), None));
        assert_eq!(found("/jobs.slice/run-7.scope"), (some("run-7.scope"), None));
        for none in ["/", "/system.slice", "/machine/orders.service", "orders.service", "/system.slice/orders"] {
            assert_eq!(found(none), (None, None), "{none}");
        }
    }

    #[test]
    fn a_users_units_are_never_the_systems() {
        let manager = "/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(found(manager), (None, None));
        assert_eq!(found(&format!("{manager}/app.slice/orders.service")), (None, some("orders.service")));
        assert_eq!(found(&format!("{manager}/system.slice/orders.service/x")), (None, some("orders.service")));
        assert_eq!(found("/user.slice/user-1000.slice/session-3.scope"), (None, None));
        assert_eq!(found("/user.slice/orders.service"), (None, None));
    }

    #[test]
    fn a_delegated_cgroup_proves_no_unit() {
        let root = tempfile::tempdir().expect("a directory");
        let cgroup = root.path().join("system.slice/orders.service");
        fs::create_dir_all(&cgroup).expect("a cgroup");
        std::os::unix::fs::chown(&cgroup, Some(65534), None).expect("run this as root");
        assert_eq!(units(root.path(), "/system.slice/orders.service"), (None, None));
    }

    #[test]
    fn the_v2_line_is_found_among_v1_lines() {
        assert_eq!(own_cgroup("9:name=systemd:/x\n0::/system.slice/a.service\n"), some("/system.slice/a.service"));
        assert_eq!(own_cgroup("9:name=systemd:/x\n"), None);
    }
}
