//! `serve` of a target, and certificates with their keys.

use super::{Certificate, Placeholder, PlaceholderPassword, Serve, files, section::Section};

/// Reads `serve` of a target.
pub(super) fn read(target: &Section<'_>, user: &str) -> Serve {
    let Some(section) = target.section("serve") else { return Serve::default() };
    let password = password(&section, user);
    let named = section.text("user");
    if let Some(named) = named.as_ref().filter(|_| !section.has("password")) {
        let what = format!("user in {} is not used: clients are asked for nothing", section.name);
        section.fault(&named.span, what, "add password = \"…\", or remove user");
    }
    // Whoever gives nothing has most likely forgotten the certificate.
    let given = ["cert", "key"].map(|key| section.item(key).is_some());
    let wanted = given.contains(&true) || !(section.has("password") || section.has("user"));
    let certificate = if wanted { certificate(&section, user) } else { None };
    section.close();
    let password = password.map(|password| Placeholder { user: named.map(|named| named.value), password });
    Serve { certificate, password }
}

/// `cert` and `key`.
pub(super) fn certificate(section: &Section<'_>, user: &str) -> Option<Certificate> {
    let cert = section.required("cert", "\"/…/server.crt\"").and_then(|text| section.absolute("cert", text));
    let key = section.required("key", "\"/…/server.key\"").and_then(|text| section.absolute("key", text));
    if let Some(cert) = &cert {
        files::certificate(section.report, "the certificate file", &cert.value, &cert.span);
    }
    if let Some(key) = &key {
        files::key(section.report, "the key file", &key.value, &key.span, Some(user));
    }
    Some(Certificate { cert: cert?.value, key: key?.value })
}

fn password(section: &Section<'_>, user: &str) -> Option<PlaceholderPassword> {
    if section.item("password")?.value.as_str().is_some() {
        return section.text("password").map(|text| PlaceholderPassword::Plain(text.value));
    }
    let table = section.section("password")?;
    let file = table.required("file", "\"/…\"").and_then(|file| table.absolute("file", file));
    if let Some(file) = &file {
        files::password(section.report, "the password file", &file.value, &file.span, Some(user));
    }
    table.close();
    file.map(|file| PlaceholderPassword::File(file.value))
}
