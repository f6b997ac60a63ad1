//! Single readers. Whole configurations are in the suite `config`.

use super::{
    Address, columns,
    fault::{listed, nearest},
};

#[test]
fn the_nearest_word_is_found_or_none() {
    let known = ["name", "protocol", "address", "state_dir", "unit"];
    for (word, expected) in [
        ("adress", Some("address")),
        ("adresse", Some("address")),
        ("nmae", Some("name")),
        ("unti", Some("unit")),
        ("state_directory", Some("state_dir")),
        ("proto", Some("protocol")),
        ("colour", None),
        ("", None),
    ] {
        assert_eq!(nearest(word, known), expected, "{word}");
    }
    assert_eq!(listed(["a", "b"]), r#""a", "b""#);
}

#[test]
fn addresses_are_read_in_one_form() {
    let read = |text: &str| text.parse::<Address>().map(|address| address.to_string());
    for (text, form) in [
        ("10.20.0.5:5432", "10.20.0.5:5432"),
        ("10.20.0.5/32:5432", "10.20.0.5:5432"),
        ("[::ffff:10.20.0.5]:5432", "10.20.0.5:5432"),
        ("[::ffff:10.20.0.0/120]:5432", "10.20.0.0/24:5432"),
        ("[FD00::0:5]:5432", "[fd00::5]:5432"),
        ("[fe80::5%2]:5432", "[fe80::5]:5432"),
        ("[2001:DB8:0::/64]:5432-5439", "[2001:db8::/64]:5432-5439"),
        ("10.20.0.5:5432-5432", "10.20.0.5:5432"),
        ("127.0.0.0/8:1-65535", "127.0.0.0/8:1-65535"),
        ("Orders.db.internal:5432", "orders.db.internal:5432"),
        ("orders_1:5432-5433", "orders_1:5432-5433"),
    ] {
        assert_eq!(read(text), Ok(form.to_owned()), "{text}");
        assert_eq!(read(form), Ok(form.to_owned()), "{text}");
    }
    for wrong in [
        "10.20.0.5",
        "10.20.0.0/24",
        "fd00::5:5432",
        "fd00::/64:5432",
        "[fd00::/64]",
        "10.20.5:5432",
        "10.20.5/24:5432",
        "10.20.0.0/024:5432",
        "10.20.0.0/:5432",
        "[10.20.0.5]:5432",
        "[orders]:5432",
        "orders/24:5432",
        ":5432",
        "a..b:5432",
        "255.255.255.255:1",
        "10.20.0.5:5432-",
        "10.20.0.5:-5432",
        "10.20.0.5:5432-5433-5434",
        "10.20.0.5:0-5432",
        "10.20.0.5:5433-5432",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn columns_are_named_by_four_parts() {
    let read = |text: &str| {
        columns::path(text).map(|(database, rest)| (database.unwrap_or_else(|| "any".into()), rest.join("/")))
    };
    let parts = |database: &str, rest: &str| Ok((database.to_owned(), rest.to_owned()));
    assert_eq!(read("*.public.customers.ssn"), parts("any", "public/customers/ssn"));
    assert_eq!(read(r#""*".public.customers.ssn"#), parts("*", "public/customers/ssn"));
    assert_eq!(read(r#"shop."a.b"."c""d".e"#), parts("shop", r#"a.b/c"d/e"#));
    for wrong in ["", "a.b.c", "a.b.c.d.e", "a..c.d", "a.b.c.*", r#"a.b.c."d"#, r#"a.b.c"x".d"#, r#"a.b."c"x.d"#] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
