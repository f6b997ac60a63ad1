//! Cgroup path -> unit and container. A unit of the system manager is a fact; one of a user's own manager is named by that
//! user. A container's id is a fact if root made its cgroup, as the runtimes of the system do.

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
    let users = directory.starts_with("/user.slice/");
    ((owned(root, directory) && !users).then(|| unit.to_owned()), None)
}

/// What container runtimes put before the id in the name of a cgroup: the cgroup itself, or a scope of systemd.
const RUNTIMES: [&str; 5] = ["", "docker-", "cri-containerd-", "crio-", "libpod-"];

/// Id of the container of a process in this cgroup: 64 hexadecimal digits.
///
/// Of the outermost one, since what is further in was named in there; and only if root owns the cgroup and may alone put
/// processes into it.
pub(super) fn container(root: &Path, cgroup: &str) -> Option<String> {
    let mut end = 0;
    for component in cgroup.strip_prefix('/')?.split('/') {
        end += 1 + component.len();
        let name = component.strip_suffix(".scope").unwrap_or(component);
        let id = RUNTIMES.iter().find_map(|runtime| name.strip_prefix(runtime).filter(|id| is_id(id)));
        if let Some(id) = id {
            let directory = &cgroup[..end];
            let own = owned(root, directory) && owned(root, &format!("{directory}/cgroup.procs"));
            return own.then(|| id.to_owned());
        }
    }
    None
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether root owns this file of the hierarchy.
fn owned(root: &Path, path: &str) -> bool {
    fs::symlink_metadata(root.join(path.trim_start_matches('/'))).is_ok_and(|found| found.uid() == 0)
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

    /// A cgroup as a directory with the file that lets processes in.
    fn make(root: &Path, cgroup: &str) -> std::path::PathBuf {
        let directory = root.join(cgroup.trim_start_matches('/'));
        fs::create_dir_all(&directory).expect("a cgroup");
        fs::write(directory.join("cgroup.procs"), "").expect("a file");
        directory
    }

    #[test]
    fn a_container_is_named_by_the_runtime_of_the_system() {
        let id = "0123456789abcdef".repeat(4);
        let other = "fedcba9876543210".repeat(4);
        let contained = |cgroup: &str, container: &str| {
            let root = tempfile::tempdir().expect("a directory");
            make(root.path(), container);
            super::container(root.path(), cgroup)
        };
        for cgroup in [
            format!("/system.slice/docker-{id}.scope"),
            format!("/docker/{id}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("/kubepods/besteffort/pod1/{id}"),
            format!("/machine.slice/libpod-{id}.scope"),
            format!("/kubepods.slice/crio-{id}.scope"),
        ] {
            assert_eq!(contained(&cgroup, &cgroup), Some(id.clone()), "{cgroup}");
            // What is further in is named by those who are in there.
            assert_eq!(contained(&format!("{cgroup}/docker/{other}"), &cgroup), Some(id.clone()), "{cgroup}");
        }
        for cgroup in [
            "/".to_owned(),
            "docker".to_owned(),
            format!("/system.slice/docker-{}.scope", &id[1..]),
            format!("/system.slice/docker-{id}.service"),
            format!("/system.slice/crio-conmon-{id}.scope"),
            format!("/system.slice/mydocker-{id}.scope"),
            format!("/system.slice/docker-{}.scope", id.to_uppercase()),
        ] {
            assert_eq!(contained(&cgroup, &cgroup), None, "{cgroup}");
        }
    }

    #[test]
    fn a_cgroup_that_a_user_owns_proves_no_container() {
        let id = "0123456789abcdef".repeat(4);
        let cgroup = format!("/docker/{id}");
        let root = tempfile::tempdir().expect("a directory");
        let directory = make(root.path(), &cgroup);
        assert_eq!(container(root.path(), &cgroup), Some(id));
        std::os::unix::fs::chown(directory.join("cgroup.procs"), Some(65534), None).expect("run this as root");
        assert_eq!(container(root.path(), &cgroup), None);
        std::os::unix::fs::chown(directory.join("cgroup.procs"), Some(0), None).expect("run this as root");
        std::os::unix::fs::chown(&directory, Some(65534), None).expect("run this as root");
        assert_eq!(container(root.path(), &cgroup), None);
        // And none that is not there.
        assert_eq!(container(&root.path().join("docker"), &cgroup), None);
    }

    #[test]
    fn the_v2_line_is_found_among_v1_lines() {
        assert_eq!(own_cgroup("9:name=systemd:/x\n0::/system.slice/a.service\n"), some("/system.slice/a.service"));
        assert_eq!(own_cgroup("9:name=systemd:/x\n"), None);
    }
}
