//! What the addresses of all targets must agree on: none leads to two targets, and all fit into the kernel's maps.
//!
//! The kernel side finds a destination by its port and by the longest prefix that its address has in the map. So where one
//! address lies inside a network of another target, the longer prefix decides, and that is allowed; where both have the same
//! prefix, nothing could.

use std::collections::BTreeMap;

use agent_common::MAX_DESTINATIONS;

use super::{
    Address, Target,
    section::{Report, Spanned},
    target,
};

/// Reports addresses that are there twice, and those that no longer fit.
pub(super) fn check(report: &Report<'_>, targets: &[target::Read]) {
    let mut before: BTreeMap<String, Vec<&Spanned<Address>>> = BTreeMap::new();
    let mut room = Room { v4: MAX_DESTINATIONS, v6: MAX_DESTINATIONS };
    for target in targets {
        for address in &target.addresses {
            let same = before.entry(place(&address.value)).or_default();
            if let Some((first, port)) =
                same.iter().find_map(|first| Some((first, first.value.ports().shared(address.value.ports())?)))
            {
                twice(report, first, address, port);
            }
            same.push(address);
            room.take(report, address);
        }
    }
}

/// Where an address is, without its ports: as text, since a name is never a network's.
fn place(address: &Address) -> String {
    match address {
        Address::Network { network, .. } => network.to_string(),
        Address::Name { host, .. } => host.clone(),
    }
}

fn twice(report: &Report<'_>, first: &Spanned<Address>, second: &Spanned<Address>, port: u16) {
    let line = report.line(&first.span);
    let what = match first.value == second.value {
        true => format!("address \"{}\" is there twice: first in line {line}", second.value),
        false => format!("address \"{}\" has port {port} of \"{}\" in line {line}", second.value, first.value),
    };
    report.fault(&second.span, what, "leave it with the target that it belongs to");
}

/// Entries that are left of the kernel's maps, one of which is for each family.
struct Room {
    v4: u32,
    v6: u32,
}

impl Room {
    /// Takes an entry for each port. A name needs at least one for each in either map; how many more, only it knows.
    fn take(&mut self, report: &Report<'_>, address: &Spanned<Address>) {
        let needed = address.value.ports().count();
        let (v4, v6) = match &address.value {
            Address::Network { network, .. } => (network.address().is_ipv4(), network.address().is_ipv6()),
            Address::Name { .. } => (true, true),
        };
        let left = [(v4, self.v4), (v6, self.v6)].into_iter().filter_map(|(wanted, left)| wanted.then_some(left)).min();
        let left = left.unwrap_or_default();
        if left < needed {
            // Nothing is taken, so that what follows is not blamed for it.
            let what = format!(
                "address \"{}\" does not fit into the kernel's map of protected destinations: it needs an entry for each \
                 port, that is {needed}, and {left} of {MAX_DESTINATIONS} are left",
                address.value
            );
            report.fault(&address.span, what, "write only the ports that the target serves");
            return;
        }
        self.v4 -= if v4 { needed } else { 0 };
        self.v6 -= if v6 { needed } else { 0 };
    }
}

/// For each address that lies inside a network of another target: a sentence that says whose it is.
pub fn nested(targets: &[Target]) -> impl Iterator<Item = String> {
    let all = || targets.iter().flat_map(|target| target.addresses.iter().map(move |address| (target, address)));
    all().flat_map(move |(inner_target, inner)| {
        all().filter_map(move |(outer_target, outer)| {
            let (Address::Network { network, ports }, Address::Network { network: around, ports: there }) =
                (inner, outer)
            else {
                return None;
            };
            let inside = around.covers(*network) && around != network && ports.shared(*there).is_some();
            (inside && inner_target.name != outer_target.name).then(|| {
                format!(
                    "address \"{inner}\" of [[target]] \"{}\" lies inside \"{outer}\" of [[target]] \"{}\": \
                     connections there are for \"{}\"",
                    inner_target.name, outer_target.name, inner_target.name
                )
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, addresses: &[&str]) -> Target {
        Target::simple(name, addresses.iter().map(|address| address.parse().expect("an address")).collect())
    }

    #[test]
    fn what_lies_inside_another_targets_network_is_said() {
        let said = |inner: &str| {
            let targets = [target("orders", &["10.20.0.0/24:5432-5433", "10.20.0.1:5432"]), target("ledger", &[inner])];
            nested(&targets).collect::<Vec<_>>()
        };
        assert_eq!(
            said("10.20.0.5:5433"),
            [
                "address \"10.20.0.5:5433\" of [[target]] \"ledger\" lies inside \"10.20.0.0/24:5432-5433\" of [[target]] \
              \"orders\": connections there are for \"ledger\""
            ]
        );
        assert_eq!(said("10.20.0.128/25:1-9999").len(), 1);
        // At another port, beside it, or around it. Around it is said of the inner ones, both of which are.
        assert!(said("10.20.0.5:5434").is_empty() && said("10.20.1.5:5432").is_empty());
        assert_eq!(said("10.20.0.0/16:5432").len(), 2);
    }
}
