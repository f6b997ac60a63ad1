//! Examples of each style, and non-interference: values that agree in what a style shows look the same.

use proptest::prelude::*;

use super::*;

const KEY: &[u8] = &[7; 32];

fn shown(style: Style, text: &str) -> String {
    hide(style, KEY, text).unwrap_or_else(|| "NULL".into())
}

#[test]
fn each_style_shows_what_it_says() {
    let cases = [
        (Style::Redact, "123-45-6789", REDACTED),
        (Style::Redact, "", REDACTED),
        (Style::Null, "123-45-6789", "NULL"),
        (Style::Fixed, "123-45-6789", "***"),
        (Style::Last4, "123-45-6789", "***6789"),
        (Style::Last4, "12345", "***2345"),
        (Style::Last4, "1234", REDACTED),
        (Style::Last4, "1-2-3-4-", REDACTED),
        (Style::Last4, "", REDACTED),
        (Style::Last4, "DE89 3704 0044 05-32", "***0532"),
        (Style::Last4, "ключ№12", "***юч12"),
        (Style::Email, "ann@example.org", "a***@***.org"),
        (Style::Email, "ann.example@mail.example.co.uk", "a***@***.uk"),
        (Style::Email, "ünal@example.org", "ü***@***.org"),
        (Style::Email, "ann@example", REDACTED),
        (Style::Email, "ann@example.12", REDACTED),
        (Style::Email, "ann@.org", REDACTED),
        (Style::Email, "@example.org", REDACTED),
        (Style::Email, "ann@b@example.org", REDACTED),
        (Style::Email, "call ann@example.org", REDACTED),
        (Style::Email, "123-45-6789", REDACTED),
        (Style::Year, "1984-03-15", "1984-01-01"),
        (Style::Year, "1984-03-15 12:00:00+01", "1984-01-01"),
        (Style::Year, "1984-03-15T12:00:00Z", "1984-01-01"),
        (Style::Year, "0044-03-15 BC", REDACTED),
        (Style::Year, "11984-03-15", REDACTED),
        (Style::Year, "1984-03-151", REDACTED),
        (Style::Year, "15.03.1984", REDACTED),
        (Style::Year, "infinity", REDACTED),
        (Style::Year, "１９８４-03-15", REDACTED),
    ];
    for (style, text, expected) in cases {
        assert_eq!(shown(style, text), expected, "{style:?} of {text:?}");
    }
}

/// RFC 4231, test case 2, cut to 128 bits.
#[test]
fn the_hash_is_hmac_sha256() {
    let hidden = hide(Style::Hash, b"Jefe", "what do ya want for nothing?");
    assert_eq!(hidden.as_deref(), Some("5bdcc146bf60754e6a042426089575c7"));
}

#[test]
fn without_a_key_there_is_no_hash() {
    assert_eq!(hide(Style::Hash, b"", "x").as_deref(), Some(REDACTED));
}

proptest! {
    #[test]
    fn styles_that_show_nothing_are_constant(a in ".*", b in ".*") {
        for style in [Style::Redact, Style::Null, Style::Fixed] {
            prop_assert_eq!(hide(style, KEY, &a), hide(style, KEY, &b));
        }
    }

    #[test]
    fn last4_depends_on_the_last_four_only(a in ".*[a-z0-9]", b in ".*[a-z0-9]", end in "[a-zA-Z0-9é]{4}", tail in "[ .-]*") {
        prop_assert_eq!(shown(Style::Last4, &format!("{a}{end}")), shown(Style::Last4, &format!("{b}{end}{tail}")));
    }

    #[test]
    fn short_values_are_hidden_whole(text in "[a-z0-9]{0,4}[ .-]*") {
        prop_assert_eq!(shown(Style::Last4, &text), REDACTED);
    }

    #[test]
    fn email_depends_on_first_and_top_only(
        first in "[a-zé]", a in "[a-z0-9.+]{0,20}", b in "[a-z0-9.+]{0,20}",
        c in "[a-z0-9-]{1,20}", d in "[a-z0-9.-]{1,40}", top in "[a-z]{2,8}",
    ) {
        let one = shown(Style::Email, &format!("{first}{a}@{c}.{top}"));
        prop_assert_eq!(&one, &shown(Style::Email, &format!("{first}{b}@{d}.{top}")));
        prop_assert_eq!(one, format!("{first}***@***.{top}"));
    }

    #[test]
    fn year_depends_on_the_year_only(year in "[0-9]{4}", a in "-[01][0-9]-[0-3][0-9]( [0-9:.+]{0,20})?", b in "-[01][0-9]-[0-3][0-9](T[0-9:.+]{0,20})?") {
        prop_assert_eq!(shown(Style::Year, &format!("{year}{a}")), shown(Style::Year, &format!("{year}{b}")));
    }

    #[test]
    fn hashes_differ_by_value_and_by_key(a in ".*", b in ".*", key in any::<[u8; 32]>()) {
        let hash = |key: &[u8], text: &str| hide(Style::Hash, key, text);
        prop_assert_eq!(hash(KEY, &a) == hash(KEY, &b), a == b);
        prop_assert_eq!(hash(KEY, &a) == hash(&key, &a), key.as_slice() == KEY);
        prop_assert_eq!(hash(KEY, &a).map(|text| text.len()), Some(2 * HASH));
    }

    #[test]
    fn no_style_panics_or_shows_a_whole_value(text in "\\PC{6,40}") {
        for style in [Style::Redact, Style::Last4, Style::Hash, Style::Email, Style::Fixed] {
            prop_assert!(!shown(style, &text).contains(&text));
        }
        let _ = shown(Style::Year, &text);
    }
}
