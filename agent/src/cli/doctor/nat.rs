//! Rules of this host that translate destinations: a second address under which a target is reached is not protected unless
//! the configuration names it too.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use crate::{
    config::{Network, Ports, Target},
    warden::Check,
};

/// Programs that print rules, where they are installed.
const PROGRAMS: &[(&str, &[&str])] =
    &[("nft", &["list", "ruleset"]), ("iptables-save", &["-t", "nat"]), ("ip6tables-save", &["-t", "nat"])];

/// How a rule says that it translates destinations, in the words of nft and of iptables.
const WORDS: &[&str] = &[" dnat ", "--to-destination "];

/// Addresses of a target.
pub(super) struct Protected<'a> {
    pub target: &'a Target,
    pub network: Network,
    pub ports: Ports,
}

/// Looks at the rules that the installed programs print.
pub(super) fn check(protected: &[Protected<'_>]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (program, arguments) in PROGRAMS {
        let outcome = match Command::new(program).args(*arguments).output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(vec![format!("{program}: {error}")]),
            // Without the kernel's part of it there are no rules.
            Ok(output) => findings(&String::from_utf8_lossy(&output.stdout), protected),
        };
        let name = format!("rules of {program}");
        match outcome {
            Ok(()) => checks.push(Check::of(name, Ok::<_, String>("none translates an address of a target".into()))),
            Err(found) => checks.extend(found.into_iter().map(|what| Check::of(name.clone(), Err::<String, _>(what)))),
        }
    }
    checks
}

fn findings(rules: &str, protected: &[Protected<'_>]) -> Result<(), Vec<String>> {
    let findings: Vec<String> = rules.lines().filter_map(|rule| finding(rule.trim(), protected)).collect();
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}

/// What is wrong with a rule, if one of its sides is protected and the other is not.
fn finding(rule: &str, protected: &[Protected<'_>]) -> Option<String> {
    let (at, word) = WORDS.iter().find_map(|word| Some((rule.find(word)?, word)))?;
    let (matched, goals) = (addresses(&rule[..at]), addresses(&rule[at + word.len()..]));
    let target_of = |(ip, port): &(IpAddr, Option<u16>)| {
        let same = |protected: &&Protected<'_>| {
            protected.network.contains(*ip) && port.is_none_or(|port| protected.ports.contains(port))
        };
        protected.iter().find(same).map(|protected| protected.target.name.as_str())
    };
    let unprotected = |side: &[(IpAddr, Option<u16>)]| {
        let addresses: Vec<String> =
            side.iter().filter(|place| target_of(place).is_none()).map(|(ip, _)| ip.to_string()).collect();
        addresses.join(", ")
    };
    let (from, to) = (matched.iter().find_map(target_of), goals.iter().find_map(target_of));
    if let Some(target) = to
        && (matched.is_empty() || matched.iter().any(|place| target_of(place).is_none()))
    {
        let other = if matched.is_empty() { "addresses that it does not name".into() } else { unprotected(&matched) };
        return Some(format!(
            "target {target} is reached past Postern by connecting to {other}: add them to its `address` (rule: {rule})"
        ));
    }
    if let Some(target) = from
        && goals.iter().any(|place| target_of(place).is_none())
    {
        let other = unprotected(&goals);
        return Some(format!(
            "an address of target {target} stands for {other}, which are not protected: add them to its `address` \
             (rule: {rule})"
        ));
    }
    None
}

/// Every address in a text, with its port if it has one: `10.0.0.1`, `10.0.0.1/32`, `10.0.0.1:5432`, `[fd00::1]:5432`.
fn addresses(text: &str) -> Vec<(IpAddr, Option<u16>)> {
    let words = text.split(|letter: char| !(letter.is_ascii_hexdigit() || ".:[]".contains(letter)));
    let address = |word: &str| {
        let whole = word.parse::<SocketAddr>().map(|address| (address.ip(), Some(address.port())));
        whole.or_else(|_| word.trim_matches(['[', ']']).parse().map(|ip| (ip, None))).ok()
    };
    words.filter(|word| word.len() > 2).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Address;

    fn target() -> Target {
        Target::simple("orders", Vec::new())
    }

    fn about(rule: &str, protected: &[&str]) -> Option<String> {
        let target = target();
        let read = |text: &&str| match text.parse() {
            Ok(Address::Network { network, ports }) => Protected { target: &target, network, ports },
            other => panic!("{text}: {other:?}"),
        };
        let protected: Vec<_> = protected.iter().map(read).collect();
        finding(rule, &protected)
    }

    #[test]
    fn a_second_address_of_a_target_is_found() {
        for rule in [
            "ip daddr 198.51.100.1 tcp dport 5432 dnat to 192.0.2.7:5432",
            "ip daddr 198.51.100.1 tcp dport 5432 dnat to numgen random mod 2 map { 0 : 192.0.2.7, 1 : 192.0.2.8 }",
            "-A PREROUTING -d 198.51.100.1/32 -p tcp -m tcp --dport 5432 -j DNAT --to-destination 192.0.2.7:5432",
        ] {
            assert!(about(rule, &["192.0.2.7:5432"]).is_some_and(|what| what.contains("to 198.51.100.1:")), "{rule}");
            assert_eq!(about(rule, &["192.0.2.7:5433", "192.0.2.9:5432"]).filter(|_| !rule.contains("map")), None);
        }
        let both = &["198.51.100.1:5432", "192.0.2.7:5432"];
        assert_eq!(about("ip daddr 198.51.100.1 tcp dport 5432 dnat to 192.0.2.7:5432", both), None);
        let unnamed = "tcp dport 6432 dnat ip to 192.0.2.7:5432";
        assert!(about(unnamed, both).is_some_and(|what| what.contains("does not name")));
        let six = "ip6 daddr 2001:db8::1 tcp dport 5432 dnat to [2001:db8::7]:5432";
        assert!(about(six, &["[2001:db8::7]:5432"]).is_some_and(|what| what.contains("2001:db8::1")));
    }

    #[test]
    fn what_stands_behind_a_target_is_found() {
        let rule = "-A KUBE-SERVICES -d 192.0.2.7/32 -p tcp --dport 5432 -j DNAT --to-destination 198.51.100.1:5432";
        assert!(about(rule, &["192.0.2.7:5432"]).is_some_and(|what| what.contains("stands for 198.51.100.1,")));
        assert_eq!(about(rule, &["203.0.113.1:5432"]), None);
        assert_eq!(about("ip daddr 192.0.2.7 accept", &["192.0.2.7:5432"]), None);
    }
}
