// error: E0451
// There is no gate without an admission.

use agent_tests::postern::{
    gate::{Gate, Services},
    model::Subject,
};

pub fn forge(services: Services, subject: Subject) -> Gate {
    Gate { services, subject, operations: 0, denied: 0, kept: Default::default(), kept_epoch: 0, seen: false }
}
