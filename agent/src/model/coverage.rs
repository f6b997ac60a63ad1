//! The nouns of the coverage ledger.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the connects of one user to one target ended, since the ledger's epoch began: what the kernel side counted, and what the
/// log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Counted by the kernel side: redirected to the proxy. All that follow, up to `lost_at_restart`, are of these.
    pub redirected: u64,
    /// Those of whom there is no durable record yet.
    pub open: u64,
    /// Given up by the client before the proxy's listener had taken them.
    pub abandoned: u64,
    /// Reset by the proxy, since the kernel side could not hand over their flow.
    pub not_handed_over: u64,
    /// Counted in the log: sessions, and requests to cancel one.
    pub proxied: u64,
    /// Counted in the log: refused by the proxy, with a record of why.
    pub denied: u64,
    /// Counted in the log: taken by a proxy that ended before it had recorded them. Each is named in a record.
    pub lost_at_restart: u64,
    /// Counted by the kernel side: refused, since no proxy listened.
    pub refused_no_listener: u64,
    /// Refused, since process or flow could not be noted.
    pub refused_not_recorded: u64,
    /// Refused, since it was not TCP.
    pub refused_udp: u64,
    /// Let through in observe mode, since no proxy listened.
    pub observed_direct: u64,
}

impl Coverage {
    /// Redirected connects of which nobody can tell what has become; below zero: more are told of than there were.
    #[must_use]
    pub fn unexplained(&self) -> i64 {
        let told =
            self.open + self.abandoned + self.not_handed_over + self.proxied + self.denied + self.lost_at_restart;
        self.redirected.cast_signed() - told.cast_signed()
    }
}

/// A row of the coverage ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageRow {
    /// The target; see [`Flow::ledger`].
    pub target: u32,
    /// Real user id.
    pub uid: u32,
    /// How the connects ended.
    #[serde(flatten)]
    pub counts: Coverage,
}

/// The kernel side as the warden has put it in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSide {
    /// Id of the ledger's map, which tells its counts from those that were there before since the host was started.
    pub ledger: u32,
    /// Links that were in force already, whose programs were replaced. None: it was not in force before.
    pub adopted: usize,
    /// Digest of what the configuration says to the kernel side.
    pub configuration: String,
    /// The programs, with their ids in the kernel.
    pub programs: BTreeMap<String, u32>,
}
