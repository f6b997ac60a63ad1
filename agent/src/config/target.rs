//! `[[target]]`

use crate::model::Mode;

use super::{
    Address, Durability, Serve, Target, TlsMode, UpstreamTls, columns, credential, files,
    section::{Section, Spanned},
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
    let serve = serve(&section, user);
    let mut roles = Vec::new();
    let credential = credential::read(&section, mode, user, &mut roles);
    let columns = columns::read(&section);
    let durability = section.choice("durability", &[("strict", Durability::Strict), ("batched", Durability::Batched)]);
    section.close();

    let target =
        name.as_ref().zip(protocol).zip(tls).zip(credential).map(|(((name, protocol), tls), credential)| Target {
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
    if let Some(ca) = &ca {
        files::certificate(section.report, "the authority file", &ca.value, &ca.span);
    }
    let mode = if given { mode } else { Some(TlsMode::VerifyFull) };
    if let Some(mode) = mode {
        agree(&section, mode, ca.as_ref().map(|ca| &ca.span), name.as_ref().map(|name| &name.span));
    }
    section.close();
    Some(UpstreamTls { mode: mode?, ca: ca.map(|ca| ca.value), name: name.map(|name| name.value) })
}

/// What is checked needs what it is checked against; what is not checked must not look as if it were.
fn agree(section: &Section<'_>, mode: TlsMode, ca: Option<&super::section::Span>, name: Option<&super::section::Span>) {
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

fn serve(target: &Section<'_>, user: &str) -> Option<Serve> {
    let section = target.section("serve")?;
    let cert = section.required("cert", "\"/…/server.crt\"").and_then(|text| section.absolute("cert", text));
    let key = section.required("key", "\"/…/server.key\"").and_then(|text| section.absolute("key", text));
    if let Some(cert) = &cert {
        files::certificate(section.report, "the certificate file", &cert.value, &cert.span);
    }
    if let Some(key) = &key {
        files::key(section.report, "the key file", &key.value, &key.span, Some(user));
    }
    section.close();
    Some(Serve { cert: cert?.value, key: key?.value })
}
