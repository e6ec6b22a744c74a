//! Errors built in on purpose, which the storm must find: a test of the tests. They exist only with the feature
//! `planted`, which the shipped program is never built with; without it every question here is answered "no" by
//! the compiler.

/// An error that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The log acknowledges what it has written but not synced.
    AcknowledgeBeforeSync = 1,
    /// A vote is answered before it is on the disk, and never gets there.
    ForgottenVote,
    /// A restarted leader leads on without an election (openraft's default).
    LeaderRestore,
    /// Every replica reads what it happens to have.
    StaleRead,
    /// A leader reads without asking whether it still leads.
    DeposedLeaderRead,
    /// A session's kept answers are not in the snapshot.
    DedupLostInSnapshot,
    /// Copies of commands are done again.
    NoDedup,
    /// Events are told before the state shows the change.
    EventBeforeChange,
    /// A replica that doesn't lead ends sessions by the leases that it remembers.
    ExpiryByDeposedLeader,
    /// A new leader doesn't give sessions their leases anew.
    LeaseNotRestarted,
    /// Checksums of log records are not compared.
    ChecksumIgnored,
    /// Now and then a replica does not apply an entry.
    SkippedEntry,
    /// Compare and swap without the comparison.
    GenerationIgnored,
    /// A leader answers before a majority has the entry.
    AnswerBeforeCommit,
    /// A replica that lost its data votes as if it had never voted.
    AmnesiacVoter,
    /// Now and then nobody is told of a change, at any replica.
    EventDropped,
    /// Leases run out, and no session ends.
    SessionNeverEnds,
    /// A lock goes to the second in its queue.
    LockPastQueue,
    /// A lock is given to one who wants it alone while others share it.
    ExclusiveBesideShared,
    /// A lock's generation grows only the first time.
    LockGenerationStays,
    /// A lock whose holder died is free at once.
    LockDelayIgnored,
    /// An ephemeral node stays when the last session that had it open dies.
    EphemeralStays,
    /// A sequencer stays valid whoever holds the lock now.
    SequencerGenerationIgnored,
    /// Of a transaction that is refused, the operations before the one that was stay done.
    TxnHalfDone,
    /// Those who wait for locks are not in the snapshot.
    WaitersLostInSnapshot,
}

/// All of them, with the names they go by on the command line.
pub const ALL: [(Bug, &str); 25] = [
    (Bug::AcknowledgeBeforeSync, "acknowledge-before-sync"),
    (Bug::ForgottenVote, "forgotten-vote"),
    (Bug::LeaderRestore, "leader-restore"),
    (Bug::StaleRead, "stale-read"),
    (Bug::DeposedLeaderRead, "deposed-leader-read"),
    (Bug::DedupLostInSnapshot, "dedup-lost-in-snapshot"),
    (Bug::NoDedup, "no-dedup"),
    (Bug::EventBeforeChange, "event-before-change"),
    (Bug::ExpiryByDeposedLeader, "expiry-by-deposed-leader"),
    (Bug::LeaseNotRestarted, "lease-not-restarted"),
    (Bug::ChecksumIgnored, "checksum-ignored"),
    (Bug::SkippedEntry, "skipped-entry"),
    (Bug::GenerationIgnored, "generation-ignored"),
    (Bug::AnswerBeforeCommit, "answer-before-commit"),
    (Bug::AmnesiacVoter, "amnesiac-voter"),
    (Bug::EventDropped, "event-dropped"),
    (Bug::SessionNeverEnds, "session-never-ends"),
    (Bug::LockPastQueue, "lock-past-queue"),
    (Bug::ExclusiveBesideShared, "exclusive-beside-shared"),
    (Bug::LockGenerationStays, "lock-generation-stays"),
    (Bug::LockDelayIgnored, "lock-delay-ignored"),
    (Bug::EphemeralStays, "ephemeral-stays"),
    (Bug::SequencerGenerationIgnored, "sequencer-generation-ignored"),
    (Bug::TxnHalfDone, "txn-half-done"),
    (Bug::WaitersLostInSnapshot, "waiters-lost-in-snapshot"),
];

#[cfg(feature = "planted")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants an error in this whole process.
#[cfg(feature = "planted")]
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, std::sync::atomic::Ordering::Relaxed);
}

/// Whether this error was planted.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether this error was planted: no.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn is(_bug: Bug) -> bool {
    false
}
