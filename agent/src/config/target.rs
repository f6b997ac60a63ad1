//! `[[target]]`

use crate::model::Mode;

use super::{
    Address, ApplicationName, ChannelBinding, CredentialSource, Durability, Target, TlsMode, TlsNegotiation,
    UpstreamTls, columns, credential, files,
    section::{Section, Span, Spanned},
    serve,
};

/// Path of a Unix socket: what fits into the kernel's address, without the final zero.
const MAX_SOCKET: usize = 107;

/// A target as far as it could be read, and what must agree with other tables.
pub(super) struct Read {
    /// `None` if something in it is wrong.
    pub(super) target: Option<Target>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) addresses: Vec<Spanned<Address>>,
    pub(super) sockets: Vec<Spanned<String>>,
    /// Roles that its credentials name.
    pub(super) roles: Vec<Spanned<String>>,
}

/// Reads all targets.
pub(super) fn read(root: &Section<'_>, protocols: &[&str], user: &str) -> Vec<Read> {
    let targets = root.sections("target", "[[target]]");
    if !root.has("target") || root.empty_list("target").is_some() {
        root.fault(&root.span, "there is no [[target]]: nothing would be protected", "add a [[target]]");
    }
    targets.unwrap_or_default().into_iter().map(|section| one(section, protocols, user)).collect()
}

fn one(mut section: Section<'_>, protocols: &[&str], user: &str) -> Read {
    let name = section.required("name", "\"orders\"");
    if let Some(name) = &name {
        section.name = format!("[[target]] \"{}\"", name.value);
        if !name.value.chars().all(|each| each.is_ascii_alphanumeric() || matches!(each, '-' | '_')) {
            let what = format!("the name of {} has other characters than letters, digits, '-' and '_'", section.name);
            section.fault(&name.span, what, "rename it, here and in the policies");
        }
    }
    let protocol = section.required("protocol", "\"postgres\"");
    if let Some(protocol) = &protocol
        && !protocols.contains(&protocol.value.as_str())
    {
        section.unknown_word("protocol", protocol, || protocols.iter().copied());
    }
    let mode = section.choice("mode", &[("enforce", Mode::Enforce), ("observe", Mode::Observe)]);
    let mode = mode.unwrap_or(Mode::Enforce);
    let addresses = addresses(&section);
    let sockets = sockets(&section);
    let tls = tls(&section);
    let serve = serve::read(&section, user);
    let mut roles = Vec::new();
    let credential = credential::read(&section, mode, user, &mut roles);
    if matches!(credential, Some(CredentialSource::Client))
        && serve.password.is_some()
        && let Some(item) = section.item("serve")
    {
        let what = format!("password in serve of {} is not used: the client's own login is relayed", section.name);
        section.fault(&item.span, what, "remove password, or give the agent a login of its own");
    }
    let columns = columns::read(&section);
    let durability = section.choice("durability", &[("strict", Durability::Strict), ("batched", Durability::Batched)]);
    let names = [("identity", ApplicationName::Identity), ("client", ApplicationName::Client)];
    let application_name = section.choice("application_name", &names);
    section.close();

    let target =
        name.as_ref().zip(protocol).zip(tls).zip(credential).map(|(((name, protocol), tls), credential)| Target {
            application_name: application_name.unwrap_or(match credential {
                CredentialSource::Agent(_) => ApplicationName::Identity,
                CredentialSource::Client => ApplicationName::Client,
            }),
            name: name.value.clone(),
            protocol: protocol.value,
            mode,
            addresses: addresses.iter().map(|address| address.value.clone()).collect(),
            sockets: sockets.iter().map(|socket| socket.value.clone().into()).collect(),
            tls,
            serve,
            credential,
            columns,
            durability: durability.unwrap_or(Durability::Batched),
        });
    Read { target, name, addresses, sockets, roles }
}

fn addresses(section: &Section<'_>) -> Vec<Spanned<Address>> {
    const EXAMPLE: &str = "[\"orders.db.internal:5432\"]";
    if !section.has("address") {
        section.missing("address", EXAMPLE);
    } else if let Some(span) = section.empty_list("address") {
        let what = format!("address in {} is empty: nothing would be protected", section.name);
        section.fault(&span, what, format!("write address = {EXAMPLE}"));
    }
    let mut addresses = Vec::new();
    for text in section.texts("address", EXAMPLE) {
        match text.value.parse::<Address>() {
            Ok(address) => addresses.push(Spanned { value: address, span: text.span }),
            Err(problem) => {
                let what = format!("address \"{}\" in {} {}", text.value, section.name, problem.what);
                section.fault(&text.span, what, problem.remedy);
            }
        }
    }
    addresses
}

fn sockets(section: &Section<'_>) -> Vec<Spanned<String>> {
    let mut sockets = Vec::new();
    for text in section.texts("sockets", "[\"/run/postgresql/.s.PGSQL.5432\"]") {
        if section.absolute("sockets", text.clone()).is_none() {
            continue;
        }
        if text.value.len() > MAX_SOCKET {
            let what = format!("a path of sockets in {} is longer than {MAX_SOCKET} bytes", section.name);
            section.fault(&text.span, what, "no Unix socket can be there: correct the path");
        }
        sockets.push(text);
    }
    sockets
}

fn tls(target: &Section<'_>) -> Option<UpstreamTls> {
    let Some(section) = target.section("tls") else {
        if !target.has("tls") {
            let what = format!("tls is missing in {}, and its default, verify-full, needs a ca", target.name);
            let remedy = "add tls = { mode = \"verify-full\", ca = \"/…/ca.pem\" }, or { mode = \"disable\" }";
            target.fault(&target.span, what, remedy);
        }
        return None;
    };
    let modes = [
        ("disable", TlsMode::Disable),
        ("require", TlsMode::Require),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-full", TlsMode::VerifyFull),
    ];
    let given = section.has("mode");
    let mode = section.choice("mode", &modes);
    let ca = section.path("ca");
    let name = section.text("name");
    let negotiations = [("request", TlsNegotiation::Request), ("direct", TlsNegotiation::Direct)];
    let negotiation = section.choice("negotiation", &negotiations);
    let bindings = [("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];
    let channel_binding = section.choice("channel_binding", &bindings);
    if let Some(ca) = &ca {
        files::certificate(section.report, "the authority file", &ca.value, &ca.span);
    }
    let mode = if given { mode } else { Some(TlsMode::VerifyFull) };
    if let Some(mode) = mode {
        agree(&section, mode, ca.as_ref().map(|ca| &ca.span), name.as_ref().map(|name| &name.span));
        for key in ["negotiation", "channel_binding"] {
            without_tls(&section, mode, key);
        }
    }
    section.close();
    Some(UpstreamTls {
        ca: ca.map(|ca| ca.value),
        name: name.map(|name| name.value),
        negotiation: negotiation.unwrap_or(TlsNegotiation::Request),
        channel_binding: channel_binding.unwrap_or(ChannelBinding::Prefer),
        ..UpstreamTls::new(mode?)
    })
}

/// What is about TLS means nothing without.
fn without_tls(section: &Section<'_>, mode: TlsMode, key: &'static str) {
    if mode == TlsMode::Disable
        && let Some(item) = section.item(key)
    {
        let what = format!("{key} in {} is not used: its mode is disable", section.name);
        section.fault(&item.span, what, format!("write mode = \"verify-full\", or remove {key}"));
    }
}

/// What is checked needs what it is checked against; what is not checked must not look as if it were.
fn agree(section: &Section<'_>, mode: TlsMode, ca: Option<&Span>, name: Option<&Span>) {
    let verifies = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
    if verifies && !section.has("ca") {
        let what = format!("{} verifies the server's certificate, but has no ca", section.name);
        section.fault(&section.span, what, "add ca = \"/…/ca.pem\"");
    }
    if let Some(span) = ca.filter(|_| !verifies) {
        let what = format!("ca in {} is not used: its mode verifies nothing", section.name);
        section.fault(span, what, "write mode = \"verify-full\", or remove ca");
    }
    if let Some(span) = name.filter(|_| mode != TlsMode::VerifyFull) {
        let what = format!("name in {} is not used: its mode verifies no name", section.name);
        section.fault(span, what, "write mode = \"verify-full\", or remove name");
    }
}
