use super::*;

fn login() -> Login {
    Login { user: "app".into(), password: Some(b"secret".to_vec().into()), certificate: None }
}

fn offer(mechanisms: &[&str]) -> Vec<u8> {
    let mut body = SASL.to_be_bytes().to_vec();
    for mechanism in mechanisms {
        body.extend_from_slice(mechanism.as_bytes());
        body.push(0);
    }
    body.push(0);
    body
}

/// What is chosen of an offer: the mechanism, and the flag of channel binding.
fn chosen(mechanisms: &[&str], end_point: Option<&[u8]>, must_bind: bool) -> Result<String, String> {
    let login = login();
    let channel = Channel { verified: false, end_point: end_point.map(<[u8]>::to_vec), must_bind };
    match Authentication::new(&login, channel).answer(&offer(mechanisms)) {
        Ok(Some(Answer::Send(bytes))) => {
            let mut fields = Fields::new(&bytes[5..]);
            let mechanism = String::from_utf8_lossy(fields.string().expect("a mechanism")).into_owned();
            let message = fields.value().expect("a message").expect("some");
            Ok(format!("{mechanism} {}", String::from_utf8_lossy(message).split(',').next().expect("a flag")))
        }
        Ok(_) => Err("nothing is sent".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_strongest_is_chosen_and_a_missing_offer_is_told() {
    let (plus, plain, hash) = (SCRAM_SHA_256_PLUS, SCRAM_SHA_256, Some(&b"hash"[..]));
    let bound = Ok("SCRAM-SHA-256-PLUS p=tls-server-end-point".to_owned());
    assert_eq!(chosen(&[plus, plain], hash, false), bound);
    assert_eq!(chosen(&[plain, plus], hash, true), bound);
    // `y`: a server that did offer it sees that the offer was taken out on the way.
    assert_eq!(chosen(&[plain], hash, false), Ok("SCRAM-SHA-256 y".into()));
    assert_eq!(chosen(&[plus, plain], None, false), Ok("SCRAM-SHA-256 n".into()));
    let refused = UpstreamError::NotBound.to_string();
    assert_eq!(chosen(&[plain], hash, true), Err(refused.clone()));
    assert_eq!(chosen(&[plus, plain], None, true), Err(refused));
    assert_eq!(chosen(&["OAUTHBEARER"], hash, false), Err(UpstreamError::Method(SASL).to_string()));
}

#[test]
fn where_binding_is_required_nothing_else_will_do() {
    let (ok, cleartext, md5) = (&[0, 0, 0, 0][..], &[0, 0, 0, 3][..], &[0, 0, 0, 5, 1, 2, 3, 4][..]);
    for body in [ok, cleartext, md5] {
        let login = login();
        let channel = |must_bind| Channel { verified: true, end_point: Some(b"hash".to_vec()), must_bind };
        assert!(Authentication::new(&login, channel(false)).answer(body).is_ok());
        let refused = Authentication::new(&login, channel(true)).answer(body).err().map(|error| error.to_string());
        assert_eq!(refused, Some(UpstreamError::NotBound.to_string()));
    }
}

#[test]
fn a_server_that_proves_nothing_is_refused() {
    let login = login();
    let fresh = || Authentication::new(&login, Channel { verified: false, end_point: None, must_bind: false });
    let mut begun = fresh();
    assert!(begun.answer(&offer(&[SCRAM_SHA_256])).is_ok());
    assert!(matches!(begun.answer(&[0, 0, 0, 0]), Err(UpstreamError::Proof)));
    // Nor does it get another beginning, or a proof without one.
    assert!(matches!(begun.answer(&offer(&[SCRAM_SHA_256])), Err(UpstreamError::Protocol)));
    assert!(matches!(fresh().answer(b"\0\0\0\x0cv=AAAA"), Err(UpstreamError::Protocol)));
    assert!(matches!(begun.answer(b"\0\0\0\x0cv=AAAA"), Err(UpstreamError::Proof)));
}

#[test]
fn a_password_in_plaintext_only_goes_to_a_verified_server() {
    let login = login();
    let channel = |verified| Channel { verified, end_point: Some(b"hash".to_vec()), must_bind: false };
    let answer = |verified| Authentication::new(&login, channel(verified)).answer(&[0, 0, 0, 3]);
    assert!(matches!(answer(true), Ok(Some(Answer::Send(_)))));
    assert!(matches!(answer(false), Err(UpstreamError::Plaintext)));
}
