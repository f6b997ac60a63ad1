use agent_tests::postern::gate::{Held, Permit};

pub fn release(held: Held, permit: Permit) {
    let _ = held.release(permit);
}
