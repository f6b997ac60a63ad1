//! What an ended test has left: its watchdog undoes everything, unless that was killed too. Programs that stay pinned go on refusing
//! the sockets of every suite after it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::proc::has_ended;

/// Where tests make things with names of [`crate::dir::unique_name`].
const PLACES: [&str; 2] = ["/sys/fs/bpf", "/tmp"];

/// Removes what tests have left whose processes have ended, and says so.
pub fn remove() {
    for path in PLACES.iter().flat_map(|place| of_ended(Path::new(place))) {
        match fs::remove_dir_all(&path) {
            Ok(()) => eprintln!("{}: left by a test that was killed; removed", path.display()),
            // The case that it disturbs fails, and this line says why.
            Err(error) => eprintln!("{}: left by a test that was killed, and not removed: {error}", path.display()),
        }
    }
}

/// Entries of `place` named `postern-test-PID-N` whose process has ended.
fn of_ended(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let left = entries.filter(|entry| {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("postern-test-")?.split('-').next()?.parse().ok());
        pid.is_some_and(has_ended)
    });
    left.map(|entry| entry.path()).collect()
}
