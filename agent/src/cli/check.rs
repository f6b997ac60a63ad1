//! `postern check`: the configuration and the policies.

use serde::Serialize;

use super::{
    Failure, Global,
    output::{Out, count},
};
use crate::{
    config::{Config, ConfigErrors, Files},
    model::Mode,
    policy, protocol,
};

/// What was found, for `--json`.
#[derive(Serialize)]
struct Found {
    /// Whether the agent would start with it.
    passed: bool,
    /// Faults of the configuration.
    configuration: Vec<crate::config::Fault>,
    /// The policies; `None` if the configuration does not say where they are.
    policies: Option<policy::Checked>,
    /// Names that the policies use and the configuration lacks: such a policy never applies.
    unmatched: Vec<String>,
}

/// Checks both and reports everything.
///
/// # Errors
/// Something is wrong.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let names: Vec<&str> = protocol::PROTOCOLS.iter().map(|(name, _)| *name).collect();
    let loaded = Config::load(&global.config, &names, Files::Check);
    let policies = loaded.as_ref().ok().map(|config| policy::check(&config.agent.policies, protocol::FRAGMENTS));
    let unmatched = match (&loaded, &policies) {
        (Ok(config), Some(checked)) => unmatched(config, checked),
        _ => Vec::new(),
    };
    let passed = loaded.is_ok() && policies.as_ref().is_some_and(policy::Checked::passed);
    if global.json {
        let configuration = loaded.as_ref().err().map(|ConfigErrors(faults)| faults.clone()).unwrap_or_default();
        out.json(&Found { passed, configuration, policies, unmatched })?;
    } else {
        match &loaded {
            Ok(config) => summary(config, out)?,
            Err(errors) => out.line(errors.to_string().trim_end())?,
        }
        if let Some(checked) = &policies {
            out.line(checked.to_string().trim_end())?;
        }
        for name in &unmatched {
            out.line(format!("warning: the policies name {name}, which the configuration does not have"))?;
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
    Ok(())
}

fn unmatched(config: &Config, checked: &policy::Checked) -> Vec<String> {
    let known = |kind: &str, name: &str| match kind {
        "Role" => config.roles.iter().any(|role| role.name == name),
        "Target" => config.targets.iter().any(|target| target.name == name),
        _ => true,
    };
    let named = checked.named.iter().flat_map(|(kind, names)| names.iter().map(move |name| (kind, name)));
    named.filter(|(kind, name)| !known(kind, name)).map(|(kind, name)| format!("{kind} \"{name}\"")).collect()
}
