#![deny(unused_must_use)]

use agent_tests::postern::gate::{Gate, Held};

pub fn ask(gate: &mut Gate, held: &Held) -> bool {
    gate.decide(held).is_ok()
}
