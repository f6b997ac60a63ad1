// error: E0308
// A verdict is an opinion; only a recorded decision releases.

use agent_tests::postern::{
    gate::{Gate, Held},
    model::Action,
};

pub fn release(gate: &mut Gate, action: &Action, held: Held) {
    let _ = held.release(gate.verdict(action));
}
