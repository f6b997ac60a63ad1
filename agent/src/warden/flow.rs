//! The kernel's record of a connect as the rest of the agent knows it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use agent_common::FlowRecord;

use crate::model::Flow;

/// The flow of a record. An IPv4-mapped destination becomes the IPv4 one.
pub(super) fn from_record(record: &FlowRecord) -> Flow {
    let address: IpAddr = Ipv6Addr::from(record.address).to_canonical();
    Flow {
        cookie: record.cookie,
        tgid: record.tgid,
        generation: record.generation,
        sequence: record.sequence,
        uid: record.uid,
        gid: record.gid,
        cgroup: record.cgroup,
        netns: record.netns,
        destination: SocketAddr::new(address, record.port),
        target: record.target,
        ledger: record.ledger,
        at: record.at,
    }
}
