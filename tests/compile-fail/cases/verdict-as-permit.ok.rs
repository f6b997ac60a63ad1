use agent_tests::postern::gate::{Gate, Held};

pub fn release(gate: &mut Gate, held: Held) {
    if let Ok(permit) = gate.decide(&held) {
        let _ = held.release(permit);
    }
}
