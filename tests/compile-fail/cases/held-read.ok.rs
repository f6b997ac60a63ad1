use agent_tests::{
    bytes::Bytes,
    postern::gate::{Held, Permit},
};

pub fn take(held: Held, permit: Permit) -> Option<Bytes> {
    held.release(permit).ok().map(|(released, _)| released.bytes().clone())
}
