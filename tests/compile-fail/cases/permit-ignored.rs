// error: unused_must_use
// A decision that nobody looks at is a mistake.
#![deny(unused_must_use)]

use agent_tests::postern::gate::{Gate, Held};

pub fn ask(gate: &mut Gate, held: &Held) {
    gate.decide(held);
}
