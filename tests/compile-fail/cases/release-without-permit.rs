// error: E0061
// Held bytes go against a permit only.

use agent_tests::postern::gate::Held;

pub fn release(held: Held) {
    let _ = held.release();
}
