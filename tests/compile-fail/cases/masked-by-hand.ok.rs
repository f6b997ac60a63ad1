use agent_tests::postern::masking::{Masked, without_values};

pub fn ready() -> Masked<String> {
    without_values("ready".to_owned())
}
