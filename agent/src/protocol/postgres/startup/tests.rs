use proptest::prelude::*;

use super::*;

fn message(minor: u16, pairs: &[(&str, &str)]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u32(0);
    bytes.put_u16(3);
    bytes.put_u16(minor);
    for (name, value) in pairs {
        put_string(&mut bytes, name.as_bytes());
        put_string(&mut bytes, value.as_bytes());
    }
    bytes.put_u8(0);
    let length = u32::try_from(bytes.len()).expect("short");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn read(minor: u16, pairs: &[(&str, &str)]) -> Result<Startup, StartupError> {
    match take(&mut message(minor, pairs))? {
        Some(Opening::Startup(startup)) => Ok(startup),
        _ => Err(StartupError::Malformed),
    }
}

#[test]
fn the_database_is_the_user_by_default() {
    let startup = read(0, &[("user", "reader"), ("application_name", "psql")]).expect("good");
    assert_eq!(startup.database, "reader");
    assert_eq!(startup.settings, [("application_name".to_owned(), "psql".to_owned())]);
    assert_eq!(startup.negotiation(0), None);
}

#[test]
fn options_are_settings() {
    let startup = read(0, &[("user", "a"), ("options", "-c a=b -cc=d\\ e --search-path=x")]).expect("good");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(startup.settings, [pair("a", "b"), pair("c", "d e"), pair("search_path", "x")]);
    let parameters = ["-c user=x", "--database=x", "-c options=-d5", "-c _pq_.x=1", "-c -pq_.x=1", "---pq-.x=1"];
    for bad in ["-d 5", "-c", "-c a", "x", "--=b", "-B 3"].into_iter().chain(parameters) {
        assert!(matches!(read(0, &[("user", "a"), ("options", bad)]), Err(StartupError::Option(_))), "{bad}");
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    assert_eq!(read(0, &[("database", "x")]), Err(StartupError::NoUser));
    assert_eq!(read(0, &[("user", "a"), ("replication", "perhaps")]), Err(StartupError::Replication("perhaps".into())));
    for encoding in ["SJIS", "BIG5", "GBK", "UTF16", ""] {
        let read = read(0, &[("user", "a"), ("client_encoding", encoding)]);
        assert_eq!(read, Err(StartupError::Encoding(encoding.to_owned())));
    }
    for encoding in ["UTF8", "'utf-8'", "unicode", "latin1", "ISO_8859_1", "SQL_ASCII"] {
        assert!(read(0, &[("user", "a"), ("Client_Encoding", encoding)]).is_ok(), "{encoding}");
    }
    assert_eq!(take(&mut BytesMut::from(&[0, 0, 0, 8, 0, 2, 0, 0][..])).err(), Some(StartupError::Version(2, 0)));
}

#[test]
fn newer_clients_are_told_what_is_spoken() {
    let startup = read(2, &[("user", "a"), ("_pq_.x", "1")]).expect("good");
    let answer = startup.negotiation(0).expect("one").into_shown();
    assert_eq!(&answer[..], b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
    assert!(startup.negotiation(2).is_some());
    let startup = read(2, &[("user", "a")]).expect("good");
    assert_eq!(startup.negotiation(2), None);
    let startup = read(9999, &[("user", "a")]).expect("good");
    assert_eq!(startup.upstream_minor(), 2);
    assert_eq!(&startup.negotiation(2).expect("one").into_shown()[..], b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0");
}

#[test]
fn a_server_may_only_come_down() {
    assert_eq!(negotiated(b"\0\x03\0\0\0\0\0\0", 2), Ok(0));
    assert_eq!(negotiated(b"\0\x03\0\x01\0\0\0\0", 2), Ok(1));
    let bad: [&[u8]; 7] = [
        b"\0\x03\0\x02\0\0\0\0",
        b"\0\x03\0\x03\0\0\0\0",
        b"\0\x02\0\0\0\0\0\0",
        b"\0\0\0\0\0\0\0\0",
        b"\0\x03\0\0\0\0\0\x01_pq_.x\0",
        b"\0\x03\0\0\0\0\0\0x",
        b"\0\x03\0\0",
    ];
    for body in bad {
        assert_eq!(negotiated(body, 2), Err(Malformed), "{body:?}");
    }
    assert_eq!(negotiated(b"\0\x03\0\0\0\0\0\0", 0), Err(Malformed));
}

#[test]
fn the_identity_takes_the_place_of_the_clients_name() {
    let mut startup =
        read(0, &[("user", "a"), ("application_name", "psql"), ("options", "-c Application_Name=odd -c a=b")])
            .expect("good");
    let name = identity(Some(&"orders-reader".to_owned()), "01kb9x2m4q7");
    assert_eq!(startup.rename(name.clone()), Some("odd".into()));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(startup.settings, [pair("a", "b"), pair("application_name", "postern:orders-reader:01kb9x2m4q7")]);
    assert_eq!(identity(None, "01kb9x2m4q7"), "postern:-:01kb9x2m4q7");
    // A server cuts what is longer than 63 bytes: the session's id must be whole.
    let long = identity(Some(&"r".repeat(80)), "01kb9x2m4q7");
    assert!(long.len() == 63 && long.ends_with("r:01kb9x2m4q7"), "{long}");
}

#[test]
fn cancel_keys_have_4_to_256_bytes() {
    for length in [4, 32, 256] {
        let body = [&[0, 0, 0, 7][..], &vec![9; length]].concat();
        let Ok(key) = CancelKey::read(&body) else { panic!("{length}") };
        assert_eq!(key.body(), body);
        assert!(take(&mut BytesMut::from(&key.request()[..])) == Ok(Some(Opening::Cancel(key))));
    }
    for length in [0, 3, 257] {
        assert!(CancelKey::read(&vec![0; 4 + length]).is_err(), "{length}");
    }
    assert!(CancelKey::read(&[0; 3]).is_err());
}

proptest! {
    #[test]
    fn anything_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = take(&mut BytesMut::from(&bytes[..]));
    }

    #[test]
    fn what_is_sent_upstream_is_what_was_read(
        user in "[a-z]{1,8}", database in "[a-z]{1,8}", name in "[a-z]{1,8}x", value in "[ -~]{0,8}",
    ) {
        let replication = ["off", "on", "database"][value.len() % 3];
        let pairs = [("user", user.as_str()), ("database", &database), (&name, &value), ("replication", replication)];
        let startup = read(0, &pairs).expect("good");
        let mut again = BytesMut::from(&startup.upstream(&user)[..]);
        prop_assert!(take(&mut again) == Ok(Some(Opening::Startup(startup))));
    }
}
