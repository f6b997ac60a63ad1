#![deny(unused_must_use)]

use agent_tests::postern::{
    gate::Gate,
    model::{Action, Verdict},
};

pub fn ask(gate: &mut Gate, action: &Action) -> bool {
    matches!(gate.verdict(action), Verdict::Permit { .. })
}
