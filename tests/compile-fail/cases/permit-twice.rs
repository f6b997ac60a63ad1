// error: E0382
// A permit is for one operation, once.

use agent_tests::postern::gate::{Held, Permit};

pub fn both(first: Held, second: Held, permit: Permit) {
    let _ = first.release(permit);
    let _ = second.release(permit);
}
