use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::*;

const NONCE: [u8; 18] = [7; 18];

fn verifier() -> Verifier {
    Verifier::new(b"placeholder").expect("a verifier")
}

/// The whole exchange with a client of another implementation.
fn exchange(
    password: &[u8],
    binding: ChannelBinding,
    mechanism: &str,
    end_point: Option<&[u8]>,
    known: bool,
) -> Result<(), ScramError> {
    let verifier = verifier();
    let mut client = ScramSha256::new(password, binding);
    let beginning = Beginning { verifier: &verifier, end_point, known };
    let (challenge, server_first) = beginning.first(mechanism.as_bytes(), client.message(), NONCE)?;
    client.update(server_first.as_bytes()).expect("the client goes on");
    let server_final = challenge.finish(client.message())?;
    client.finish(server_final.as_bytes()).expect("the client is content with the server's proof");
    Ok(())
}

#[test]
fn who_knows_the_password_is_let_in_and_nobody_else() {
    let with = |password: &[u8], known| exchange(password, ChannelBinding::unsupported(), SCRAM_SHA_256, None, known);
    assert_eq!(with(b"placeholder", true), Ok(()));
    assert_eq!(with(b"placeholder", false), Err(ScramError::Password));
    assert_eq!(with(b"placeholdeR", true), Err(ScramError::Password));
    assert_eq!(with(b"", true), Err(ScramError::Password));
}

#[test]
fn a_login_is_bound_to_the_connection_that_it_is_on() {
    let bound = |to: &[u8], mechanism, on| {
        exchange(b"placeholder", ChannelBinding::tls_server_end_point(to.to_vec()), mechanism, on, true)
    };
    assert_eq!(bound(b"hash", SCRAM_SHA_256_PLUS, Some(&b"hash"[..])), Ok(()));
    assert_eq!(bound(b"hash", SCRAM_SHA_256_PLUS, Some(&b"other"[..])), Err(ScramError::NotBound));
    assert_eq!(bound(b"hash", SCRAM_SHA_256, Some(&b"hash"[..])), Err(ScramError::Malformed));
    assert_eq!(bound(b"hash", SCRAM_SHA_256_PLUS, None), Err(ScramError::Mechanism));
    let unbound = |binding, mechanism, on| exchange(b"placeholder", binding, mechanism, on, true);
    let on = Some(&b"hash"[..]);
    assert_eq!(unbound(ChannelBinding::unsupported(), SCRAM_SHA_256, on), Ok(()));
    assert_eq!(unbound(ChannelBinding::unsupported(), SCRAM_SHA_256_PLUS, on), Err(ScramError::Malformed));
    // It could, and was told that the server cannot.
    assert_eq!(unbound(ChannelBinding::unrequested(), SCRAM_SHA_256, on), Err(ScramError::Downgraded));
    assert_eq!(unbound(ChannelBinding::unrequested(), SCRAM_SHA_256, None), Ok(()));
}

/// The example of RFC 7677, chapter 3, whose nonce of the server is not base64 of 18 bytes.
#[test]
fn the_proofs_are_those_of_the_rfc() {
    let salt = "W22ZaJ0SNY7soEsUEjb6gQ==";
    let salted = "c4a49510323ab4f952cac1fa99441939e78ea74d6be81ddf7096e87513dc615d";
    let salted: [u8; 32] = hex::decode(salted).expect("hex").try_into().expect("32 bytes");
    let key = |name: &[u8]| super::hmac(&salted, name).expect("any key will do");
    let verifier = Verifier {
        salt: salt.into(),
        iterations: "4096".into(),
        stored_key: Sha256::digest(key(b"Client Key")).into(),
        server_key: key(b"Server Key"),
    };
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let challenge = Challenge {
        beginning: Beginning { verifier: &verifier, end_point: None, known: true },
        binding: "biws".into(),
        first_bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
        server_first: format!("r={nonce},s={salt},i=4096"),
        nonce: nonce.into(),
    };
    let proof = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    assert_eq!(challenge.finish(proof.as_bytes()).as_deref(), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
}

#[test]
fn what_is_no_exchange_is_refused() {
    let verifier = verifier();
    let first = |message: &str| {
        let beginning = Beginning { verifier: &verifier, end_point: None, known: true };
        beginning.first(SCRAM_SHA_256.as_bytes(), message.as_bytes(), NONCE).map(|(_, answer)| answer)
    };
    assert!(first("n,,n=,r=abc").is_ok_and(|answer| answer.starts_with("r=abcBwcH")));
    assert_eq!(first("n,a=root,n=,r=abc"), Err(ScramError::Authorization));
    assert_eq!(first("n,,m=x,n=,r=abc"), Err(ScramError::Extension));
    for message in
        ["", "n", "n,", "n,,", "n,,n=", "n,,n=,r=", "n,,r=abc,n=", "n,x,n=,r=abc", "x,,n=,r=abc", "n,,n=,r=a c"]
    {
        assert_eq!(first(message), Err(ScramError::Malformed), "{message}");
    }
    assert_eq!(first(&format!("n,,n=,r={}", "a".repeat(1024))), Err(ScramError::Malformed));
    let last = |message: &str| {
        let beginning = Beginning { verifier: &verifier, end_point: None, known: true };
        let (challenge, _) = beginning.first(SCRAM_SHA_256.as_bytes(), b"n,,n=,r=abc", NONCE).expect("good");
        challenge.finish(message.as_bytes())
    };
    let nonce = format!("abc{}", STANDARD.encode(NONCE));
    let proof = STANDARD.encode([0; 32]);
    assert_eq!(last(&format!("c=biws,r={nonce},p={proof}")), Err(ScramError::Password));
    assert_eq!(last(&format!("c=biws,r={nonce}x,p={proof}")), Err(ScramError::Nonce));
    assert_eq!(last(&format!("c=eSws,r={nonce},p={proof}")), Err(ScramError::NotBound));
    for message in ["", "c=biws", "p=", &format!("c=biws,r={nonce}"), &format!("c=biws,r={nonce},p=AAAA")] {
        assert_eq!(last(message), Err(ScramError::Malformed), "{message}");
    }
}

proptest! {
    #[test]
    fn anything_is_read_without_a_panic(first in ".{0,60}", last in ".{0,60}") {
        let verifier = verifier();
        let beginning = || Beginning { verifier: &verifier, end_point: Some(b"hash"), known: true };
        let _ = beginning().first(SCRAM_SHA_256.as_bytes(), first.as_bytes(), NONCE);
        let (challenge, _) = beginning().first(SCRAM_SHA_256.as_bytes(), b"n,,n=,r=abc", NONCE).expect("good");
        prop_assert!(challenge.finish(last.as_bytes()).is_err());
    }
}
