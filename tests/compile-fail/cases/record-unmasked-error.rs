// error: E0308
// The target's errors are masked before they are recorded.

use agent_tests::postern::recording::Failure;

pub fn failure(message: String) -> Failure {
    Failure { code: "42501".to_owned(), message }
}
