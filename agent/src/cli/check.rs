//! `postern check`: the configuration, the policies, and whether this host is as they expect.

use std::{collections::BTreeMap, fs, io::Read, path::Path};

use nix::unistd::{Gid, Group, Uid, User};
use serde::Serialize;

use super::{
    Failure, Global,
    output::{Out, count},
};
use crate::{
    config::{Config, ConfigErrors, Fault, Files, Match, nearest, nested},
    model::Mode,
    policy, protocol,
};

/// What was found, for `--json`.
#[derive(Serialize)]
struct Found<'a> {
    /// What roles may use at most: those that have limits.
    limits: BTreeMap<&'a str, BTreeMap<&'static str, u64>>,
    /// Whether the agent would start with it.
    passed: bool,
    /// Faults of the configuration.
    configuration: Vec<Fault>,
    /// The policies; `None` if the configuration does not say where they are.
    policies: Option<policy::Checked>,
    /// What is allowed and has no effect: names that only the policies have, matches that nothing on this host
    /// meets; and addresses that lie inside another target's network.
    warnings: Vec<String>,
}

/// Checks both and reports everything.
///
/// # Errors
/// Something is wrong.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let names: Vec<&str> = protocol::PROTOCOLS.iter().map(|(name, _)| *name).collect();
    let loaded = Config::load(&global.config, &names, Files::Check).and_then(on_this_host);
    let policies = loaded.as_ref().ok().map(|config| policy::check(&config.agent.policies, protocol::FRAGMENTS));
    let warnings = match (&loaded, &policies) {
        (Ok(config), Some(checked)) => {
            unmatched(config, checked).chain(unmet(config)).chain(nested(&config.targets)).collect()
        }
        _ => Vec::new(),
    };
    let passed = loaded.is_ok() && policies.as_ref().is_some_and(policy::Checked::passed);
    if global.json {
        let configuration = loaded.as_ref().err().map(|ConfigErrors(faults)| faults.clone()).unwrap_or_default();
        let limits = loaded.as_ref().map(limited).unwrap_or_default();
        out.json(&Found { limits, passed, configuration, policies, warnings })?;
    } else {
        match &loaded {
            Ok(config) => summary(config, out)?,
            Err(errors) => out.line(errors.to_string().trim_end())?,
        }
        if let Some(checked) = &policies {
            out.line(checked.to_string().trim_end())?;
        }
        for warning in &warnings {
            out.line(format!("warning: {warning}"))?;
        }
    }
    out.flush()?;
    match passed {
        true => Ok(()),
        false => Err(Failure::usage(format!("{}: the agent would not start with this", global.config.display()))),
    }
}

fn summary(config: &Config, out: &mut Out) -> Result<(), Failure> {
    let targets = count(config.targets.len() as u64, "target", "targets");
    let roles = count(config.roles.len() as u64, "role", "roles");
    out.line(format!("{}: {targets}, {roles}", config.path.display()))?;
    for target in &config.targets {
        let mode = if target.mode == Mode::Enforce { "enforce" } else { "observe" };
        let masked = count(target.columns.len() as u64, "masked column", "masked columns");
        out.line(format!("  target {}: {}, {mode}, {masked}", target.name, target.protocol))?;
    }
    for (role, limits) in limited(config) {
        let limits = limits.iter().map(|(name, most)| format!("{name} {most}")).collect::<Vec<_>>();
        out.line(format!("  role {role}: at most {}", limits.join(", ")))?;
    }
    Ok(())
}

/// The limits of each role that has any, by their names in the configuration.
fn limited(config: &Config) -> BTreeMap<&str, BTreeMap<&'static str, u64>> {
    let roles = config.roles.iter().map(|role| (role.name.as_str(), role.limits.given().collect::<BTreeMap<_, _>>()));
    roles.filter(|(_, limits)| !limits.is_empty()).collect()
}

/// The user and the group that `[agent]` names must be there.
fn on_this_host(config: Config) -> Result<Config, ConfigErrors> {
    let fault = |what, remedy| Fault { file: config.path.clone(), line: 0, what, remedy };
    let mut faults = Vec::new();
    let user = &config.agent.user;
    if !is_user(user) {
        faults.push(fault(
            format!("user in [agent]: this host has no user \"{user}\""),
            format!("make it (`systemd-sysusers`, or `useradd --system {user}`), or name one that is there"),
        ));
    }
    if let Some(group) = &config.agent.group
        && !is_group(group)
    {
        faults.push(fault(
            format!("group in [agent]: this host has no group \"{group}\""),
            format!("make it (`groupadd --system {group}`), name one that is there, or remove the key"),
        ));
    }
    if faults.is_empty() { Ok(config) } else { Err(ConfigErrors(faults)) }
}

/// Whether there is a user of this name or number. One that cannot be looked up is not said to be missing.
fn is_user(name: &str) -> bool {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    !matches!(found, Ok(None))
}

/// The same of a group.
fn is_group(name: &str) -> bool {
    let found = match name.parse() {
        Ok(number) => Group::from_gid(Gid::from_raw(number)),
        Err(_) => Group::from_name(name),
    };
    !matches!(found, Ok(None))
}

/// Names that the policies use and the configuration lacks: such a policy never applies.
fn unmatched(config: &Config, checked: &policy::Checked) -> impl Iterator<Item = String> {
    let roles: Vec<&str> = config.roles.iter().map(|role| role.name.as_str()).collect();
    let targets: Vec<&str> = config.targets.iter().map(|target| target.name.as_str()).collect();
    [("Role", "[[role]]", roles), ("Target", "[[target]]", targets)].into_iter().flat_map(|(kind, table, known)| {
        let named = checked.named.get(kind).into_iter().flatten();
        let missing: Vec<String> = named
            .filter(|name| !known.contains(&name.as_str()))
            .map(|name| {
                let meant = nearest(name, known.iter().copied());
                let meant = meant.map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default();
                format!("the policies name {kind} \"{name}\", but no {table} has that name{meant}")
            })
            .collect();
        missing
    })
}

/// Entries of `match` that no process on this host meets.
fn unmet(config: &Config) -> impl Iterator<Item = String> {
    config.roles.iter().flat_map(|role| {
        role.matches.iter().flat_map(never).map(|why| format!("an entry of match in [[role]] \"{}\" {why}", role.name))
    })
}

/// Why no process on this host meets an entry, as the end of a sentence that begins with the entry.
fn never(entry: &Match) -> Vec<String> {
    // A number needs no name.
    let is_name = |name: &&str| name.parse::<u32>().is_err();
    let user = entry.user.as_deref().filter(is_name).filter(|user| !is_user(user));
    let group = entry.group.as_deref().filter(is_name).filter(|group| !is_group(group));
    [
        user.map(|user| format!("is never met: this host has no user \"{user}\"")),
        group.map(|group| format!("is never met: this host has no group \"{group}\"")),
        entry.exe.as_deref().and_then(not_what_runs),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What runs is a program's own file. The path of a link to it, or of a script, is no process's `exe`.
fn not_what_runs(exe: &Path) -> Option<String> {
    let shown = exe.display();
    let file = match exe.canonicalize() {
        Ok(file) => file,
        Err(error) => return Some(format!("is never met: exe {shown}: {error}")),
    };
    if is_script(&file) {
        let place = if file == exe { "is" } else { "leads to" };
        return Some(format!(
            "is never met: exe {shown} {place} a script ({}); name the program that it starts, which \
             `postern sessions list` shows",
            file.display()
        ));
    }
    (file != exe).then(|| format!("is never met: exe {shown} is a link; write \"{}\"", file.display()))
}

fn is_script(file: &Path) -> bool {
    let mut begin = [0; 2];
    fs::File::open(file).and_then(|mut file| file.read_exact(&mut begin)).is_ok() && begin == *b"#!"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_executable_that_no_process_shows_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (program, script, link, to_script) =
            (dir.join("program"), dir.join("script"), dir.join("a"), dir.join("b"));
        fs::write(&program, b"\x7fELF").unwrap();
        fs::write(&script, b"#!/bin/sh\n").unwrap();
        symlink(&program, &link).unwrap();
        symlink(&script, &to_script).unwrap();
        assert_eq!(not_what_runs(&program), None);
        let why = |path: &Path| not_what_runs(path).unwrap();
        assert!(why(&link).ends_with(&format!("is a link; write \"{}\"", program.display())), "{}", why(&link));
        assert!(why(&script).contains(&format!("{} is a script", script.display())), "{}", why(&script));
        assert!(why(&to_script).contains(&format!("{} leads to a script", to_script.display())), "{}", why(&to_script));
        assert!(why(&dir.join("none")).contains("No such file"), "{}", why(&dir.join("none")));
    }

    #[test]
    fn a_number_is_an_id() {
        assert!(is_user("root") && is_user("0") && is_group("root") && is_group("0"));
        assert!(!is_user("no-such-user") && !is_group("no-such-group"));
    }
}
