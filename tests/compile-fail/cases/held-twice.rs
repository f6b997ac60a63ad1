// error: E0382
// Held bytes go once.

use agent_tests::postern::gate::{Held, Permit};

pub fn twice(held: Held, one: Permit, other: Permit) {
    let _ = held.release(one);
    let _ = held.release(other);
}
