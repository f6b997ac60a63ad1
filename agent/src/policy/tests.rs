use super::*;
use std::path::Path;
#[test]
fn probe() {
    for dir in ["orders", "reporting", "migrations"] {
        let p = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies").join(dir);
        println!("{}", check(&p, crate::protocol::FRAGMENTS));
        println!("{}", test(&p, crate::protocol::FRAGMENTS));
    }
}
