// error: E0616
// What may be shown cannot be exchanged afterwards.

use agent_tests::postern::masking::Masked;

pub fn exchange(masked: &mut Masked<String>, value: String) {
    masked.0 = value;
}
