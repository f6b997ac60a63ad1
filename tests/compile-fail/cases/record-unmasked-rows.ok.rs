use agent_tests::postern::{masking::Masked, recording::Event};

pub fn answer(rows: Vec<Masked<Vec<Option<String>>>>) -> Event {
    Event::Answer { session: String::new(), operation: 1, columns: None, rows, truncated: false }
}
