// error: E0277
// A permit cannot be multiplied.
use agent_tests::postern::gate::Permit;

pub fn multiply(permit: &Permit) -> Permit {
    Clone::clone(permit)
}
