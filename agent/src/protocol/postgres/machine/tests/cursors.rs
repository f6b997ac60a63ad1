//! Cursors of DECLARE after what is masked has changed.

use std::sync::Arc;

use super::super::{
    rig::{toy::Toy, *},
    *,
};

/// Declares a cursor while nothing is masked, and fetches from it when something is.
fn fetched_later(text: &str, mode: Mode, fetch: &[Bytes]) -> Rig {
    let mut rig = Rig::in_mode(false, mode);
    rig.send(&[query("begin"), query(format!("declare c {text}"))]);
    assert_eq!(rig.heard().0, "CZCZ");
    rig.machine.look(Arc::new(Toy { masks: true }));
    rig.send(fetch);
    rig
}

#[test]
fn a_cursor_is_understood_anew_when_what_is_masked_has_changed() {
    for fetch in [vec![execute("c"), sync()], vec![query("fetch c")]] {
        let rig = fetched_later("derived", Mode::Enforce, &fetch);
        let (kinds, texts) = rig.heard();
        assert_eq!(kinds, "CZCZEZ", "{texts}");
        assert!(texts.contains("Declare the cursor again."), "{texts}");
        assert!(!rig.server.ran.iter().any(|text| text == "derived" || text == "fetch c"), "{:?}", rig.server.ran);
    }
}

#[test]
fn a_cursor_whose_text_means_the_same_goes_on() {
    let rig = fetched_later("select 1", Mode::Enforce, &[execute("c"), sync()]);
    assert!(!rig.heard().0.contains('E'), "{:?}", rig.heard());
    // Where all is only observed, nothing is refused.
    let rig = fetched_later("derived", Mode::Observe, &[execute("c"), sync()]);
    assert!(!rig.heard().0.contains('E'), "{:?}", rig.heard());
}
