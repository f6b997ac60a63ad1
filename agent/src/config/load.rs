//! The walk through the document: top-level tables, and what they must agree on.

use std::{collections::HashMap, fs, io, path::Path};

use toml_edit::Document;

use super::{
    Config, ConfigErrors, agent,
    files::{AS_ROOT, Files},
    intercept, overlap, role,
    section::{Report, Section, Span},
    target,
};

impl Config {
    /// Reads and validates a configuration file. `protocols` are the names of the protocols that are built in.
    ///
    /// # Errors
    /// All its faults; a file that is not TOML has only the first.
    pub fn load(path: &Path, protocols: &[&str], files: Files) -> Result<Self, ConfigErrors> {
        let text = fs::read_to_string(path).map_err(|error| {
            let what = format!("the configuration cannot be read: {error}");
            ConfigErrors::whole(
                path,
                what,
                match error.kind() {
                    io::ErrorKind::PermissionDenied => AS_ROOT,
                    _ => "correct the path, or write the file",
                },
            )
        })?;
        Self::parse(path, &text, protocols, files)
    }

    /// The same of a text that was read from `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    fn parse(path: &Path, text: &str, protocols: &[&str], files: Files) -> Result<Self, ConfigErrors> {
        let report = Report::new(path, text, files);
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let what = format!("this is not TOML: {}", error.message().trim().replace('\n', ", "));
                report.fault(&error.span().unwrap_or(0..0), what, "correct the syntax at this line, or just above it");
                return Err(ConfigErrors(report.into_faults()));
            }
        };
        let root = Section::root(&report, document.as_table());
        let agent = agent::read(&root);
        let intercept = intercept::read(&root);
        let roles = role::read(&root);
        let targets = target::read(&root, protocols, &agent.user);
        agree(&report, &roles, &targets);
        root.close();

        let config = Self {
            path: path.to_owned(),
            agent,
            intercept,
            roles: roles.into_iter().filter_map(|role| role.role).collect(),
            targets: targets.into_iter().filter_map(|target| target.target).collect(),
        };
        let faults = report.into_faults();
        if faults.is_empty() { Ok(config) } else { Err(ConfigErrors(faults)) }
    }
}

/// What must be so over all tables: names are unique, addresses lead to one target and fit into the kernel's maps, roles that
/// are named exist.
fn agree(report: &Report<'_>, roles: &[role::Read], targets: &[target::Read]) {
    overlap::check(report, targets);
    let mut names: HashMap<(&str, &str), &Span> = HashMap::new();
    let mut once = |kind, name, span| {
        if let Some(first) = names.insert((kind, name), span) {
            let what = format!("{kind} \"{name}\" is there twice: first in line {}", report.line(first));
            let remedy = match kind {
                "target" | "role" => "give one of them another name",
                _ => "leave it with the target that it belongs to",
            };
            report.fault(span, what, remedy);
        }
    };
    for name in roles.iter().filter_map(|role| role.name.as_ref()) {
        once("role", &name.value, &name.span);
    }
    for target in targets {
        if let Some(name) = &target.name {
            once("target", &name.value, &name.span);
        }
        for socket in &target.sockets {
            once("socket", &socket.value, &socket.span);
        }
        for role in &target.roles {
            let known = || roles.iter().filter_map(|known| known.name.as_ref()).map(|name| name.value.as_str());
            if !known().any(|name| name == role.value) {
                let what = format!("no [[role]] is named \"{}\", which a credential is for", role.value);
                let remedy = match super::fault::nearest(&role.value, known()) {
                    Some(nearest) => format!("did you mean \"{nearest}\"?"),
                    None => format!("add a [[role]] with name = \"{}\"", role.value),
                };
                report.fault(&role.span, what, remedy);
            }
        }
    }
}
