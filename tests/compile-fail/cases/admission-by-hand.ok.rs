use agent_tests::postern::{
    gate::{Admission, Gate, Services},
    model::{Action, Subject},
};

pub fn ask(services: Services, subject: Subject, connect: &Action) -> Option<Admission> {
    Gate::admit(services, subject, connect).ok().map(|(_, admission)| admission)
}
