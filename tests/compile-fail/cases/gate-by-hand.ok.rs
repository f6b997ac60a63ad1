use agent_tests::postern::{
    gate::{Gate, Services},
    model::{Action, Subject},
};

pub fn ask(services: Services, subject: Subject, connect: &Action) -> Option<Gate> {
    Gate::admit(services, subject, connect).ok().map(|(gate, _)| gate)
}
