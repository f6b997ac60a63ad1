//! Records of the coverage ledger: which redirected connects are open, and how often the kernel side did what.

/// What tells one redirected connect from all others: a socket can connect again, but not twice at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// See [`FlowRecord::cookie`].
    pub cookie: u64,
    /// See [`FlowRecord::at`].
    pub at: u64,
}

/// A target in the coverage ledger: the same for as long as the target has its name, whatever its place in the configuration.
pub type LedgerId = u32;

/// A destination that an earlier agent protected, of which it is not known yet which target it belongs to.
pub const LEDGER_UNRESOLVED: LedgerId = 0;

/// Row of the coverage ledger: a target, and the user who connected.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerKey {
    /// The target.
    pub target: LedgerId,
    /// Real user id in the initial user namespace.
    pub uid: u32,
}

/// The row of all that have no row, since there were [`MAX_LEDGER`] already.
pub const LEDGER_OTHERS: LedgerKey = LedgerKey { target: u32::MAX, uid: u32::MAX };

/// A row of the coverage ledger: how often the kernel side did what, by [`Column`].
pub type LedgerRow = [u64; COLUMNS as usize];

/// What the kernel side did with a connect to a target.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Redirected to the proxy. Each of these ends as a record of the log or in one of the next two columns.
    Redirected = 0,
    /// Redirected, and given up before the proxy's listener had taken it.
    Abandoned = 1,
    /// Redirected, and then its flow could not be handed over: the proxy resets it.
    Lost = 2,
    /// Refused because no marked listener was there.
    NoListener = 3,
    /// Refused because the process or the flow could not be noted.
    NotRecorded = 4,
    /// Refused: not TCP.
    Udp = 5,
    /// Let through to a target in observe mode because no listener was there.
    ObservedDirect = 6,
}

/// Number of columns.
pub const COLUMNS: u32 = 7;

/// Redirected connects at once whose record is not durable yet. Beyond it, connects are refused.
pub const MAX_OPEN: u32 = 65_536;

/// Rows of the coverage ledger. What does not fit counts as [`LEDGER_OTHERS`].
pub const MAX_LEDGER: u32 = 8_192;

/// Bytes of the ring buffer of abandoned connects: some two thousand of them.
pub const ABANDONED_BYTES: u32 = 256 * 1024;
