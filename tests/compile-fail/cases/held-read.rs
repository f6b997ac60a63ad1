// error: E0616
// Held bytes cannot be taken past the gate.

use agent_tests::{bytes::Bytes, postern::gate::Held};

pub fn peek(held: &Held) -> Bytes {
    held.bytes.clone()
}
