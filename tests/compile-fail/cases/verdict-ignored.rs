// error: unused_must_use
// A verdict that nobody looks at is a mistake.
#![deny(unused_must_use)]

use agent_tests::postern::{gate::Gate, model::Action};

pub fn ask(gate: &mut Gate, action: &Action) {
    gate.verdict(action);
}
