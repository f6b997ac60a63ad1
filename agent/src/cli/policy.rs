//! `postern policy check`, `postern policy test` and `postern policy reload`.

use std::{
    fmt::Display,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde::Serialize;

use super::{
    Failure, Global,
    client::Client,
    output::{Out, count},
};
use crate::{
    control::{Reply, Request},
    policy, protocol,
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a directory of policies against the schema.
    #[command(after_help = "Examples:\n  postern policy check                 those of the configuration\n  \
                            postern policy check ./policies      those that are about to be installed")]
    Check {
        /// Directory of *.cedar; default: that of the configuration.
        dir: Option<PathBuf>,
    },
    /// Test a directory of policies against the verdict table (verdicts.toml) beside them.
    #[command(after_help = "Examples:\n  \
                            postern policy test                  those of the configuration\n  \
                            postern policy test ./policies       those that are about to be installed\n\n\
                            A case of verdicts.toml:\n  \
                            [[case]]\n  \
                            name = \"a writer does not delete all rows\"\n  \
                            roles = [\"orders-writer\"]\n  \
                            action = \"sql:delete\"\n  \
                            resource = \"Table orders.shop.public.orders\"\n  \
                            facts = { has_where = false }\n  \
                            expect = \"deny\"\n  \
                            rule = \"no-unbounded-writes\"")]
    Test {
        /// Directory of *.cedar and verdicts.toml; default: that of the configuration.
        dir: Option<PathBuf>,
    },
    /// Have the running agent read its policies again. If they have a fault, the old ones stay in force.
    #[command(after_help = "`systemctl reload postern-proxy` does the same, and so does SIGHUP to the proxy. \
                            Open sessions are decided by the new policies from their next statement on. The \
                            configuration (targets, roles, columns) is read at start only: restart the agent for it.")]
    Reload,
}

/// Does one of them.
///
/// # Errors
/// The policies have faults, or a verdict is not the expected one.
pub fn run(global: &Global, command: &Command, out: &mut Out) -> Result<(), Failure> {
    match command {
        Command::Check { dir } => {
            let checked = policy::check(&directory(global, dir.as_deref())?, protocol::FRAGMENTS);
            report(global, &checked, checked.passed(), "the agent would not take these policies", out)
        }
        Command::Test { dir } => {
            let tested = policy::test(&directory(global, dir.as_deref())?, protocol::FRAGMENTS);
            let otherwise = match tested.faults.is_empty() {
                true => "not every verdict is the expected one",
                false => "the policies or their table cannot be tested",
            };
            report(global, &tested, tested.passed(), otherwise, out)
        }
        Command::Reload => reload(global, out),
    }
}

fn directory(global: &Global, dir: Option<&Path>) -> Result<PathBuf, Failure> {
    match dir {
        Some(dir) => Ok(dir.to_owned()),
        None => Ok(global.places()?.policies),
    }
}

fn report(
    global: &Global,
    found: &(impl Serialize + Display),
    passed: bool,
    otherwise: &str,
    out: &mut Out,
) -> Result<(), Failure> {
    match global.json {
        true => out.json(found)?,
        false => out.line(found.to_string().trim_end())?,
    }
    out.flush()?;
    if passed { Ok(()) } else { Err(Failure::wrong(otherwise)) }
}

fn reload(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let policies = Client::connect(global)?.one(&Request::Reload {}, |reply| match reply {
        Reply::Reloaded(policies) => Some(policies),
        _ => None,
    })?;
    match global.json {
        true => out.json(&policies)?,
        false => {
            let policies_in_force = count(policies.count as u64, "policy", "policies");
            out.line(format!("{policies_in_force} in force, epoch {}", policies.epoch))?;
        }
    }
    Ok(())
}
