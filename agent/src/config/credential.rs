//! `credential` of a target.

use crate::model::Mode;

use super::{
    Credential, CredentialSource, files,
    section::{Section, Spanned},
    serve,
};

/// Reads the credential of a target. The roles that it names go into `roles`.
pub(super) fn read(
    target: &Section<'_>,
    mode: Mode,
    user: &str,
    roles: &mut Vec<Spanned<String>>,
) -> Option<CredentialSource> {
    let Some(item) = target.item("credential") else {
        target.missing("credential", "{ user = \"…\", password.file = \"/etc/postern/….password\" }");
        return None;
    };
    if let Some(word) = item.value.as_str() {
        return client(target, mode, &Spanned { value: word.to_owned(), span: item.span });
    }
    if item.value.is_table_like() {
        let section = Section::of(target.report, format!("credential of {}", target.name), item)?;
        return one(section, user, roles).map(|credential| CredentialSource::Agent(vec![credential]));
    }
    let sections = target.sections("credential", &format!("a credential of {}", target.name))?;
    if let Some(span) = target.empty_list("credential") {
        let what = format!("credential of {} is an empty list", target.name);
        target.fault(&span, what, "add a table with user and password.file");
    }
    let mut credentials: Vec<Credential> = Vec::new();
    for section in sections {
        let span = section.span.clone();
        let Some(credential) = one(section, user, roles) else {
            continue;
        };
        if credentials.iter().any(|earlier| earlier.role.is_none() || earlier.role == credential.role) {
            let what = format!("a credential of {} is never used: one before it serves the same role", target.name);
            target.fault(&span, what, "put the one without a role last, and give each role one credential");
        }
        credentials.push(credential);
    }
    Some(CredentialSource::Agent(credentials))
}

/// `credential = "client"`
fn client(target: &Section<'_>, mode: Mode, word: &Spanned<String>) -> Option<CredentialSource> {
    if word.value != "client" {
        target.unknown_word("credential", word, || ["client"].into_iter());
        return None;
    }
    if mode == Mode::Enforce {
        let what = format!("credential = \"client\" of {} is only for mode = \"observe\"", target.name);
        let remedy = "give the agent a login of its own: { user = \"…\", password.file = \"…\" }";
        target.fault(&word.span, what, remedy);
    }
    Some(CredentialSource::Client)
}

/// One table.
fn one(section: Section<'_>, user: &str, roles: &mut Vec<Spanned<String>>) -> Option<Credential> {
    let role = section.text("role");
    roles.extend(role.clone());
    let login = section.required("user", "\"…\"");
    let mut password_file = None;
    if let Some(item) = section.item("password")
        && item.value.as_str().is_some()
    {
        let what = format!("password in {} stands in the configuration itself", section.name);
        section.fault(&item.span, what, "put it into a file of mode 0600 and write password.file = \"/…\"");
    } else if let Some(password) = section.section("password") {
        if let Some(file) = password.required("file", "\"/…\"").and_then(|file| password.absolute("file", file)) {
            files::password(section.report, "the password file", &file.value, &file.span, Some(user));
            password_file = Some(file.value);
        }
        password.close();
    }
    let given = ["cert", "key"].map(|key| section.item(key).is_some());
    let certificate = if given.contains(&true) { serve::certificate(&section, user) } else { None };
    section.close();
    Some(Credential { role: role.map(|role| role.value), user: login?.value, password_file, certificate })
}
