// error: E0308
// What the log shows of an operation is masked before anything is held.

use std::sync::Arc;

use agent_tests::{
    bytes::Bytes,
    postern::{gate::Held, model::Action},
};

pub fn hold(action: Arc<Action>, text: Arc<String>, bytes: Bytes) -> Held {
    Held::new(action, text, Vec::new(), bytes)
}
