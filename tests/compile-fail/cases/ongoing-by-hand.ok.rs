use agent_tests::{
    bytes::Bytes,
    postern::gate::{Held, Permit, Released},
};

pub fn send(held: Held, permit: Permit, bytes: Bytes) -> Option<Released> {
    held.release(permit).ok().map(|(_, ongoing)| ongoing.data(bytes))
}
