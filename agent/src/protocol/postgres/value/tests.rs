use super::*;

fn rows(oid: u32, format: i16) -> Rows {
    Rows::bound(vec![oid], vec![format])
}

fn masked(oid: u32, format: i16, style: Style, value: &[u8]) -> Option<Vec<u8>> {
    rows(oid, format).masked(0, value, style, &|_, text| Some(format!("<{text}>")))
}

#[test]
fn text_types_take_the_masked_text_in_both_formats() {
    for format in [0, 1] {
        assert_eq!(masked(TEXT, format, Style::Redact, b"a").as_deref(), Some(&b"<a>"[..]));
        assert_eq!(masked(BPCHAR, format, Style::Last4, b"abcd  ").as_deref(), Some(&b"<abcd>"[..]));
    }
}

#[test]
fn other_types_become_null() {
    assert_eq!(masked(INT4, 1, Style::Redact, &7i32.to_be_bytes()), None);
    assert_eq!(masked(JSON, 0, Style::Last4, b"{}"), None);
    assert_eq!(masked(99_999, 0, Style::Fixed, b"label"), None);
    assert_eq!(masked(TEXT, 0, Style::Null, b"a"), None);
}

#[test]
fn years_stay_years() {
    assert_eq!(masked(DATE, 0, Style::Year, b"1984-06-05").as_deref(), Some(&b"1984-01-01"[..]));
    assert_eq!(
        masked(TIMESTAMPTZ, 0, Style::Year, b"1984-06-05 10:00:00+02").as_deref(),
        Some(&b"1984-01-01 00:00:00+00"[..])
    );
    for text in ["infinity", "0044-03-15 BC", "05.06.1984", "06/05/1984", "-", "1984-"] {
        assert_eq!(masked(DATE, 0, Style::Year, text.as_bytes()), None, "{text}");
    }
    // 1984-06-05 is day -5688; 1984-01-01 is day -5844.
    assert_eq!(masked(DATE, 1, Style::Year, &(-5688i32).to_be_bytes()), Some((-5844i32).to_be_bytes().to_vec()));
    assert_eq!(
        masked(TIMESTAMP, 1, Style::Year, &(-5688 * MICROSECONDS_PER_DAY + 1).to_be_bytes()),
        Some((-5844 * MICROSECONDS_PER_DAY).to_be_bytes().to_vec())
    );
    for day in [i32::MAX, i32::MIN] {
        assert_eq!(masked(DATE, 1, Style::Year, &day.to_be_bytes()), None);
    }
    for micros in [i64::MAX, i64::MIN] {
        assert_eq!(masked(TIMESTAMP, 1, Style::Year, &micros.to_be_bytes()), None);
    }
}

#[test]
fn binary_values_are_legible_in_the_log() {
    assert_eq!(text(INT8, 1, &(-3i64).to_be_bytes()), "-3");
    assert_eq!(text(BOOL, 1, &[1]), "t");
    assert_eq!(text(DATE, 1, &0i32.to_be_bytes()), "2000-01-01");
    assert_eq!(text(TIMESTAMP, 1, &1_500_000i64.to_be_bytes()), "2000-01-01 00:00:01.5");
    assert_eq!(text(UUID, 1, &[0xab; 16]), "abababab-abab-abab-abab-abababababab");
    assert_eq!(text(INT4, 1, &[1]), "<1 bytes>");
    assert_eq!(text(600, 1, &[0; 16]), "<16 bytes>");
}

#[test]
fn rows_are_split_and_joined_without_a_change() {
    let codec = rows(TEXT, 0);
    let values = [Some(Cow::Borrowed(&b"x"[..])), None];
    let frame = codec.join(&values).expect("fits");
    assert_eq!(codec.split(&frame), Ok(vec![Some(&b"x"[..]), None]));
    for cut in 0..frame.len() {
        assert_eq!(codec.split(&frame[..cut]), Err(Unreadable));
    }
}
