use agent_tests::{postern::masking::Masked, serde_json};

pub fn write(masked: &Masked<String>) -> Option<String> {
    serde_json::to_string(masked).ok()
}
