use std::sync::Arc;

use agent_tests::{
    bytes::Bytes,
    postern::{gate::Held, masking::Masked, model::Action},
};

pub fn hold(action: Arc<Action>, text: Arc<Masked<String>>, bytes: Bytes) -> Held {
    Held::new(action, text, Vec::new(), bytes)
}
