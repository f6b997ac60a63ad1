//! `[agent]`

use std::{path::PathBuf, time::Duration};

use super::{Agent, DRAIN, NAME_GRACE, files, section::Section};

/// A Unix socket's path, with `/control.sock` behind the directory, has room for 107 bytes in the kernel's address.
const MAX_RUNTIME_DIR: usize = 107 - "/control.sock".len();

/// The longest `name_grace`: an address may have another owner after a day.
const LONGEST_GRACE: u64 = 86_400;

/// The longest `drain`: a week.
const LONGEST_DRAIN: u64 = 7 * 86_400;

/// Reads `[agent]`, which may be absent.
pub(super) fn read(root: &Section<'_>) -> Agent {
    let mut agent = Agent {
        state_dir: "/var/lib/postern".into(),
        runtime_dir: "/run/postern".into(),
        policies: "/etc/postern/policies".into(),
        pin_dir: "/sys/fs/bpf/postern".into(),
        user: "postern".into(),
        group: None,
        name_grace: NAME_GRACE,
        drain: DRAIN,
    };
    let Some(mut section) = root.section("agent") else {
        files::directory(root.report, "the directory of policies", &agent.policies, &root.span);
        return agent;
    };
    section.name = "[agent]".into();
    let directory = |key: &'static str, place: &mut PathBuf| {
        let found = section.path(key)?;
        place.clone_from(&found.value);
        Some(found.span)
    };
    directory("state_dir", &mut agent.state_dir);
    directory("pin_dir", &mut agent.pin_dir);
    if let Some(span) = directory("runtime_dir", &mut agent.runtime_dir)
        && agent.runtime_dir.as_os_str().len() > MAX_RUNTIME_DIR
    {
        let what = format!("runtime_dir in [agent] is longer than {MAX_RUNTIME_DIR} bytes");
        section.fault(&span, what, "use a shorter path: it holds Unix sockets");
    }
    // A key with a fault of its own has no directory, and the default one is not meant.
    let policies = match section.item("policies") {
        None => Some(section.span.clone()),
        Some(_) => directory("policies", &mut agent.policies),
    };
    if let Some(span) = policies {
        files::directory(section.report, "the directory of policies", &agent.policies, &span);
    }
    if let Some(user) = section.text("user") {
        if matches!(user.value.as_str(), "root" | "0") {
            section.fault(
                &user.span,
                "user in [agent] is root, for the process that reads what clients and servers send",
                "name a user of its own, such as \"postern\"",
            );
        }
        agent.user = user.value;
    }
    agent.group = section.text("group").map(|group| group.value);
    if let Some(seconds) = section.seconds("name_grace", 1..=LONGEST_GRACE) {
        agent.name_grace = Duration::from_secs(seconds);
    }
    if let Some(seconds) = section.seconds("drain", 1..=LONGEST_DRAIN) {
        agent.drain = Duration::from_secs(seconds);
    }
    section.close();
    agent
}
