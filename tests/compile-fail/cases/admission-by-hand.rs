// error: E0451
// A session is admitted by the gate alone.

use agent_tests::postern::gate::Admission;

pub fn forge() -> Admission {
    Admission { rules: Vec::new() }
}
