use super::*;

fn secret(bytes: &[u8]) -> Result<Vec<u8>, SecretError> {
    Secret::from_file(Zeroizing::new(bytes.to_vec())).map(|secret| secret.into_bytes().to_vec())
}

#[test]
fn one_newline_at_the_end_is_not_part_of_a_password() {
    assert_eq!(secret(b"correct horse\n").as_deref(), Ok(b"correct horse".as_slice()));
    assert_eq!(secret(b"correct horse\r\n").as_deref(), Ok(b"correct horse".as_slice()));
    assert_eq!(secret(b" correct horse ").as_deref(), Ok(b" correct horse ".as_slice()));
    assert_eq!(secret(b"\xff\xfe").as_deref(), Ok(b"\xff\xfe".as_slice()));
}

#[test]
fn what_is_no_password_is_refused() {
    assert_eq!(secret(b""), Err(SecretError::Empty));
    assert_eq!(secret(b"\n"), Err(SecretError::Empty));
    assert_eq!(secret(b"correct horse\n\n"), Err(SecretError::NotOneLine));
    assert_eq!(secret(b"correct\nhorse"), Err(SecretError::NotOneLine));
    assert_eq!(secret(b"correct\0horse"), Err(SecretError::NotOneLine));
    assert_eq!(secret(&[b'x'; MAX_SECRET + 1]), Err(SecretError::TooLong));
}

#[test]
fn the_first_login_for_any_of_the_roles_serves() {
    let login = |role: Option<&str>, user: &str| Credential {
        role: role.map(Into::into),
        user: user.into(),
        password_file: None,
        certificate: None,
    };
    let logins = [login(Some("reader"), "app_ro"), login(Some("writer"), "app_rw"), login(None, "app")];
    let user = |roles: &[&str]| {
        let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
        choose(&logins, &roles).map(|login| login.user.clone())
    };
    assert_eq!(user(&["reader"]).as_deref(), Ok("app_ro"));
    assert_eq!(user(&["writer", "reader"]).as_deref(), Ok("app_ro"));
    assert_eq!(user(&["writer"]).as_deref(), Ok("app_rw"));
    assert_eq!(user(&[]).as_deref(), Ok("app"));

    let denial = choose(&logins[..2], &["guest".into()]).err().map(|denial| denial.reason);
    assert_eq!(denial.as_deref(), Some("the target has no login for this process's roles"));
}
