//! `[intercept]`

use std::net::IpAddr;

use super::{
    Allowed, Existing, Intercept, Lockdown, Members, Reach,
    network::masked,
    section::{Section, Spanned},
};

/// Reads `[intercept]`, which may be absent.
pub(super) fn read(root: &Section<'_>) -> Intercept {
    let mut intercept = Intercept::default();
    let Some(mut section) = root.section("intercept") else { return intercept };
    section.name = "[intercept]".into();
    intercept.include = members(&section);
    if let Some(mut exclude) = section.section("exclude") {
        exclude.name = "exclude in [intercept]".into();
        intercept.exclude = members(&exclude);
        exclude.close();
    }
    intercept.pass_forwarded = section.choice("forwarded", &[("drop", false), ("pass", true)]).unwrap_or(false);
    intercept.lockdown = section.section("lockdown").map(lockdown);
    if let Some(reach) = section.choice("namespaces", &[("all", Reach::All), ("host", Reach::Host)]) {
        intercept.namespaces = reach;
    }
    if let Some(existing) = section.choice("existing", &[("cut", Existing::Cut), ("leave", Existing::Leave)]) {
        intercept.existing = existing;
    }
    section.close();
    intercept
}

fn members(section: &Section<'_>) -> Members {
    let listed = |key, example: &str| {
        if let Some(span) = section.empty_list(key) {
            let what = format!("{key} in {} is empty, which could mean everybody or nobody", section.name);
            section.fault(&span, what, format!("write {key} = {example}, or remove it"));
        }
        section.texts(key, example)
    };
    let units = listed("units", "[\"orders-agent.service\"]");
    for unit in &units {
        if !unit.value.contains('.') {
            let what = format!("units in {} has no name of a unit: \"{}\"", section.name, unit.value);
            section.fault(&unit.span, what, format!("write the whole name, such as \"{}.service\"", unit.value));
        }
    }
    let cgroups = listed("cgroups", "[\"/subagents\"]");
    let values = |texts: Vec<Spanned<String>>| texts.into_iter().map(|text| text.value).collect();
    Members {
        units: values(units),
        users: values(listed("users", "[\"svc-orders\"]")),
        cgroups: cgroups
            .into_iter()
            .filter_map(|text| section.absolute("cgroups", text))
            .map(|path| path.value.to_string_lossy().into_owned())
            .collect(),
    }
}

fn lockdown(mut section: Section<'_>) -> Lockdown {
    section.name = "[intercept.lockdown]".into();
    let dns = section.has("dns").then(|| {
        let read = |text: Spanned<String>| match text.value.parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) => {
                let what = format!("dns in {} is no address: \"{}\"", section.name, text.value);
                section.fault(&text.span, what, "write the addresses of the resolvers, such as [\"10.20.0.2\"]");
                None
            }
        };
        section.texts("dns", "[\"10.20.0.2\"]").into_iter().filter_map(read).collect()
    });
    let mut allow = Vec::new();
    if let Some(mut named) = section.section("allow") {
        named.name = "allow in [intercept.lockdown]".into();
        for (name, item) in named.entries() {
            let Some(text) = item.value.as_str() else {
                let what = format!("{name} in {} is {}, not a string", named.name, item.value.type_name());
                named.fault(&item.span, what, format!("write {name} = \"203.0.113.0/24:443\""));
                continue;
            };
            match allowed(name, text) {
                Ok(allowed) => allow.push(allowed),
                Err(problem) => {
                    let what = format!("{name} in {}: \"{text}\" {problem}", named.name);
                    let remedy =
                        "write \"NETWORK\", \"NETWORK:PORT\" or \"[IPV6]:PORT\", such as \"203.0.113.0/24:443\"";
                    named.fault(&item.span, what, remedy);
                }
            }
        }
    }
    section.close();
    Lockdown { dns, allow }
}

/// `203.0.113.0/24`, `203.0.113.0/24:443`, `2001:db8::/32`, `[2001:db8::/32]:443`
fn allowed(name: &str, text: &str) -> Result<Allowed, String> {
    let (network, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (network, rest) = rest.split_once(']').ok_or("has no closing bracket")?;
            (network, rest.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((network, port)) if !port.contains(':') => (network, Some(port)),
            _ => (text, None),
        },
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port != 0 => Some(port),
        Some(_) => return Err("has no port between 1 and 65535".to_owned()),
    };
    let (address, prefix) = prefixed(network)?;
    Ok(Allowed { name: name.to_owned(), address, prefix, port })
}

/// An address with the length of its prefix, of any width: an address alone is a network of one.
fn prefixed(text: &str) -> Result<(IpAddr, u8), String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "is no address".to_owned())?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(prefix) => match prefix.parse() {
            Ok(prefix) if prefix <= bits => prefix,
            _ => return Err(format!("has no prefix length between 0 and {bits}")),
        },
    };
    let first = masked(address, prefix);
    if first != address {
        return Err(format!("has bits beyond its prefix; the network is {first}/{prefix}"));
    }
    Ok((address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_allowed_with_or_without_a_port() {
        let read =
            |text| allowed("x", text).map(|allowed| (format!("{}/{}", allowed.address, allowed.prefix), allowed.port));
        assert_eq!(read("203.0.113.0/24"), Ok(("203.0.113.0/24".into(), None)));
        assert_eq!(read("203.0.113.7:443"), Ok(("203.0.113.7/32".into(), Some(443))));
        assert_eq!(read("2001:db8::/32"), Ok(("2001:db8::/32".into(), None)));
        assert_eq!(read("[2001:db8::]:443"), Ok(("2001:db8::/128".into(), Some(443))));
        assert_eq!(read("0.0.0.0/0:443"), Ok(("0.0.0.0/0".into(), Some(443))));
        for (text, problem) in [
            ("203.0.113.7/24", "has bits beyond its prefix; the network is 203.0.113.0/24"),
            ("203.0.113.0/33", "has no prefix length between 0 and 32"),
            ("203.0.113.0/24:0", "has no port between 1 and 65535"),
            ("mirror", "is no address"),
            ("[2001:db8::", "has no closing bracket"),
        ] {
            assert_eq!(read(text), Err(problem.to_owned()), "{text}");
        }
    }
}
