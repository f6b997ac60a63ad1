use agent_tests::postern::gate::{Gate, Held, Permit};

pub fn ask(gate: &mut Gate, held: &Held) -> Option<Permit> {
    gate.decide(held).ok()
}
