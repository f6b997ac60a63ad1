use agent_tests::postern::{masking::Masked, recording::{AnswerPart, Event}};

pub fn answer(rows: Vec<Masked<Vec<Option<String>>>>) -> Event {
    let answer = AnswerPart { columns: None, rows, truncated: false };
    Event::Answer { session: String::new(), operation: 1, answer }
}
