// error: E0451
// A permit is made by the gate alone.

use agent_tests::postern::gate::Permit;

pub fn forge() -> Permit {
    Permit { serial: 1, operation: 1 }
}
