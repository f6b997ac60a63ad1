use agent_tests::postern::masking::Masked;

pub fn show(masked: &Masked<String>) -> &str {
    masked.shown()
}
