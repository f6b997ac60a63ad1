use agent_tests::postern::gate::{Held, Permit};

pub fn once(held: Held, permit: Permit) {
    let _ = held.release(permit);
}
