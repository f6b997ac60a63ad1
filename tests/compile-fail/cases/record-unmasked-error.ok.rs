use agent_tests::postern::{masking::Masked, recording::Failure};

pub fn failure(message: Masked<String>) -> Failure {
    Failure { code: "42501".to_owned(), message }
}
