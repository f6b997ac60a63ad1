// error: E0423
// Only masking says that something may be shown.

use agent_tests::postern::masking::Masked;

pub fn forge(value: String) -> Masked<String> {
    Masked(value)
}
