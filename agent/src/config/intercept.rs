//! `[intercept]`

use super::{Existing, Intercept, Reach, section::Section};

/// Reads `[intercept]`, which may be absent.
pub(super) fn read(root: &Section<'_>) -> Intercept {
    let mut intercept = Intercept::default();
    let Some(mut section) = root.section("intercept") else { return intercept };
    section.name = "[intercept]".into();
    if let Some(reach) = section.choice("namespaces", &[("all", Reach::All), ("host", Reach::Host)]) {
        intercept.namespaces = reach;
    }
    if let Some(existing) = section.choice("existing", &[("cut", Existing::Cut), ("leave", Existing::Leave)]) {
        intercept.existing = existing;
    }
    section.close();
    intercept
}
