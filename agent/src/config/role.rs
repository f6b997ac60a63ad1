//! `[[role]]`

use std::time::Duration;

use super::{
    Limits, Match, Role,
    section::{Section, Spanned},
};

/// Highest limit of rows, bytes, sessions or statements: far beyond what anybody means, and it can be added up.
const MOST: u64 = 1_000_000_000_000_000;

/// Longest `statement_time`: a week, in seconds.
const LONGEST: u64 = 7 * 24 * 60 * 60;

/// A role as far as it could be read.
pub(super) struct Read {
    /// `None` if something in it is wrong.
    pub(super) role: Option<Role>,
    /// Its name, if it has one: also a faulty role is known by it, so that one fault does not cause another.
    pub(super) name: Option<Spanned<String>>,
}

/// Reads all roles.
pub(super) fn read(root: &Section<'_>) -> Vec<Read> {
    root.sections("role", "[[role]]").unwrap_or_default().into_iter().map(one).collect()
}

fn one(mut section: Section<'_>) -> Read {
    let name = section.required("name", "\"orders-reader\"");
    if let Some(name) = &name {
        section.name = format!("[[role]] \"{}\"", name.value);
        if !name.value.chars().all(|each| each.is_ascii_alphanumeric() || matches!(each, '-' | '_' | '.')) {
            let what =
                format!("the name of {} has other characters than letters, digits, '-', '_' and '.'", section.name);
            section.fault(&name.span, what, "rename it, here and in the policies");
        }
    }
    let example = "[{ unit = \"orders-agent.service\" }]";
    let entries = section.sections("match", &format!("an entry of match in {}", section.name));
    if !section.has("match") {
        section.missing("match", example);
    } else if let Some(span) = section.empty_list("match") {
        let what = format!("match in {} is empty: nothing would have this role", section.name);
        section.fault(&span, what, format!("write match = {example}, or remove the role"));
    }
    let matches: Vec<Match> = entries.unwrap_or_default().into_iter().filter_map(entry).collect();
    let limits = section.section("limits").map(limits).unwrap_or_default();
    section.close();
    let role = name.as_ref().map(|name| Role { name: name.value.clone(), matches, limits });
    Read { role, name }
}

fn limits(section: Section<'_>) -> Limits {
    let number = |key| section.number(key, "", 1..=MOST);
    let limits = Limits {
        rows: number("rows"),
        bytes: number("bytes"),
        statement_time: section.seconds("statement_time", 1..=LONGEST).map(Duration::from_secs),
        sessions: number("sessions"),
        statements_per_minute: number("statements_per_minute"),
    };
    section.close();
    limits
}

/// An entry of `match`.
fn entry(section: Section<'_>) -> Option<Match> {
    let before = section.report.count();
    let found = Match {
        unit: unit(&section, "unit"),
        user_unit: unit(&section, "user_unit"),
        user: section.text("user").map(|user| user.value),
        group: section.text("group").map(|group| group.value),
        exe: section.path("exe").map(|exe| exe.value),
        exe_sha256: sha256(&section),
        cgroup: cgroup(&section),
        container: container(&section),
    };
    let span = section.span.clone();
    let (report, name) = (section.report, section.name.clone());
    section.close();
    if found == Match::default() && report.count() == before {
        report.fault(&span, format!("{name} has no key, so that it would match every process"), {
            "add unit, user_unit, user, group, exe, exe_sha256, cgroup or container"
        });
    }
    (found != Match::default()).then_some(found)
}

fn unit(section: &Section<'_>, key: &'static str) -> Option<String> {
    let unit = section.text(key)?;
    if !unit.value.contains('.') {
        let what = format!("{key} in {} is no name of a unit: \"{}\"", section.name, unit.value);
        section.fault(&unit.span, what, format!("write the whole name, such as \"{}.service\"", unit.value));
    }
    Some(unit.value)
}

fn sha256(section: &Section<'_>) -> Option<String> {
    let hash = section.text("exe_sha256")?;
    if hash.value.len() != 64 || !hash.value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let what = format!("exe_sha256 in {} is not 64 hexadecimal digits", section.name);
        section.fault(&hash.span, what, "write what `sha256sum FILE` prints");
    }
    Some(hash.value.to_ascii_lowercase())
}

fn cgroup(section: &Section<'_>) -> Option<String> {
    let cgroup = section.path("cgroup")?;
    Some(cgroup.value.to_string_lossy().into_owned())
}

/// As container runtimes show it: the whole id, or at least its first twelve digits.
fn container(section: &Section<'_>) -> Option<String> {
    let id = section.text("container")?;
    if !(12..=64).contains(&id.value.len()) || !id.value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let what = format!("container in {} is not 12 to 64 hexadecimal digits", section.name);
        section.fault(&id.span, what, "write the container's id as its runtime lists it; a name proves nothing");
    }
    Some(id.value.to_ascii_lowercase())
}
