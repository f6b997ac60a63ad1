// error: E0451
// Data goes upstream only for an operation that was let go.

use agent_tests::{
    bytes::Bytes,
    postern::gate::{Ongoing, Released},
};

pub fn send(bytes: Bytes) -> Released {
    Ongoing { operation: 1 }.data(bytes)
}
