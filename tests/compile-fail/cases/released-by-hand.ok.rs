use agent_tests::{
    bytes::Bytes,
    postern::gate::{Admission, Released},
};

pub fn sync(admission: &Admission, bytes: Bytes) -> Released {
    admission.housekeeping(bytes)
}
