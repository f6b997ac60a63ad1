//! `postern doctor`: what this kernel has, and what of this host is in the way of the configuration.

mod nat;

use std::net::{SocketAddr, ToSocketAddrs as _};

use serde::Serialize;

use self::nat::Protected;

use super::{
    Failure, Global,
    output::{Colour, Out, clean, count},
};
use crate::{
    config::{Address, Config, ConfigErrors, Files, Network},
    protocol,
    warden::{self, Check, Feature, FeatureState},
};

/// What was found, for `--json`.
#[derive(Serialize)]
struct Found {
    /// Whether nothing is missing.
    passed: bool,
    /// What kernels may have or lack.
    features: Vec<Feature>,
    /// What the agent needs of the host.
    checks: Vec<Check>,
}

/// Looks at everything and reports it.
///
/// # Errors
/// Something is missing.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    super::as_root("loading programs into the kernel, to see which it takes,")?;
    let names: Vec<&str> = protocol::PROTOCOLS.iter().map(|(name, _)| *name).collect();
    let config = Config::load(&global.config, &names, Files::Check);
    let (features, mut checks) = warden::examine(config.as_ref().ok());
    match &config {
        Ok(config) => names_and_rules(config, &mut checks),
        Err(ConfigErrors(faults)) => {
            let faults = count(faults.len() as u64, "fault", "faults");
            let what = format!("{}: {faults}; `postern check` tells more", global.config.display());
            checks.push(Check::of("configuration", Err::<String, _>(what)));
        }
    }
    let missing = features.iter().filter(|feature| feature.is_wanting()).count()
        + checks.iter().filter(|check| !check.passed).count();
    let found = Found { passed: missing == 0, features, checks };
    match global.json {
        true => out.json(&found)?,
        false => print(&found, out)?,
    }
    out.flush()?;
    match missing {
        0 => Ok(()),
        _ => {
            let things = count(missing as u64, "thing is", "things are");
            Err(Failure::wrong(format!("{things} not as Postern needs it on this host")))
        }
    }
}

/// What the targets' names stand for now, and which rules of address translation concern their addresses.
fn names_and_rules(config: &Config, checks: &mut Vec<Check>) {
    let mut protected = Vec::new();
    for target in &config.targets {
        for address in &target.addresses {
            match address {
                Address::Network { network, ports } => {
                    protected.push(Protected { target, network: *network, ports: *ports });
                }
                Address::Name { host, ports } => {
                    // Which port is asked with does not matter.
                    let found = (host.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                    for address in found.iter().flatten() {
                        protected.push(Protected { target, network: Network::host(address.ip()), ports: *ports });
                    }
                    let shown = |found: Vec<SocketAddr>| {
                        let found: Vec<String> = found.iter().map(|address| address.ip().to_string()).collect();
                        format!("{address} is {}", found.join(", "))
                    };
                    let outcome = found.map(shown).map_err(|error| {
                        format!("{address} does not resolve ({error}); until it does, nothing is protected for it")
                    });
                    checks.push(Check::of(format!("name of {}", target.name), outcome));
                }
            }
        }
    }
    checks.extend(nat::check(&protected));
}

fn print(found: &Found, out: &mut Out) -> Result<(), Failure> {
    for check in &found.checks {
        let verdict = if check.passed { out.paint(Colour::Good, "ok   ") } else { out.paint(Colour::Bad, "WRONG") };
        out.line(format!("{verdict}  {:<14} {}", clean(&check.name), clean(&check.found)))?;
    }
    out.line("")?;
    out.line("what kernels may have or lack")?;
    for feature in &found.features {
        let (colour, verdict) = match feature.state {
            FeatureState::Present => (Colour::Good, "has"),
            FeatureState::Replaced => (Colour::Warn, "lacks, and does without"),
            FeatureState::Missing => (Colour::Bad, "lacks"),
        };
        let verdict = out.paint(colour, &format!("this one {verdict}"));
        out.line(format!("  {} (Linux {}): {verdict}", feature.name, feature.since))?;
        let without = if feature.state == FeatureState::Replaced { "so" } else { "without it" };
        out.line(format!("      {without}: {}", feature.lost))?;
        if let Some(why) = &feature.why {
            out.line(format!("      {}", out.paint(Colour::Dim, &clean(why))))?;
        }
    }
    Ok(())
}
