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
    let mut room = Room::default();
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

/// Entries that are taken of the kernel's maps, one of which is for each family.
#[derive(Default)]
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
        let mut fits = true;
        for (wanted, taken) in [(v4, &mut self.v4), (v6, &mut self.v6)] {
            if wanted {
                // Not counted where it does not fit, so that what follows is not blamed for it.
                let total = taken.saturating_add(needed);
                fits &= total <= MAX_DESTINATIONS;
                *taken = if total <= MAX_DESTINATIONS { total } else { *taken };
            }
        }
        if !fits {
            let what = format!(
                "address \"{}\" needs {needed} entries of the kernel's map of protected destinations, one for each port; \
                 with what stands before it that is more than the {MAX_DESTINATIONS} that the map has",
                address.value
            );
            report.fault(&address.span, what, "write only the ports that the target serves");
        }
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
