use agent_tests::postern::gate::{Held, Permit};

pub fn both(first: Held, second: Held, one: Permit, other: Permit) {
    let _ = first.release(one);
    let _ = second.release(other);
}
