//! What can go wrong, one file each, with a line that says why the cell must survive it.
//!
//! A fault decides by itself whether and how hard it strikes, and says when it really did: a test demands that
//! over a number of seeds each fault has fired.

mod applications_die;
mod clock_jump;
mod clock_rate;
mod crash;
mod crash_at_step;
mod delay;
mod duplication;
mod failing_disk;
mod flapping;
mod flipped_bit;
mod full_disk;
mod leader_change;
mod loss;
mod members_change;
mod one_way;
mod partial;
mod partition;
mod paused;
mod power_cut;
mod rolling_restart;
mod slow_disk;
mod slow_replica;

use crate::storm::Storm;

/// One kind of thing that goes wrong.
pub trait Fault: Sync {
    /// What it is called, in tables and on the command line.
    fn name(&self) -> &'static str;

    /// Why the cell must survive it.
    fn why(&self) -> &'static str;

    /// Begins, and sees to its end itself (`Storm::later`). Gives back what it did, in words; `None`: nothing.
    fn strike(&self, storm: &mut Storm) -> Option<String>;
}

/// What comes with a fault of another name, or with none, and must have happened too.
pub const BESIDES: [(&str, &str); 5] = [
    (
        "reordering",
        "comes with delay: connections overtake each other, so no order across them may be relied on",
    ),
    ("lost writes", "comes with power cuts: what was written and not synced is not there"),
    ("torn write", "comes with power cuts: part of what was written and not synced is there"),
    (
        "snapshots and purges",
        "come all the time: the log is short, so that what is in it is always part of the truth",
    ),
    (
        "repair from the others",
        "comes after a flipped bit: a replica begins with nothing, and votes when it has caught up",
    ),
];

/// All of them.
pub fn all() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(applications_die::ApplicationsDie),
        Box::new(clock_jump::ClockJump),
        Box::new(clock_rate::ClockRate),
        Box::new(crash::Crash),
        Box::new(crash_at_step::CrashAtStep),
        Box::new(delay::Delay),
        Box::new(duplication::Duplication),
        Box::new(failing_disk::FailingDisk),
        Box::new(flapping::Flapping),
        Box::new(flipped_bit::FlippedBit),
        Box::new(full_disk::FullDisk),
        Box::new(leader_change::LeaderChange),
        Box::new(loss::Loss),
        Box::new(members_change::MembersChange),
        Box::new(one_way::OneWay),
        Box::new(partial::Partial),
        Box::new(partition::Partition),
        Box::new(paused::Paused),
        Box::new(power_cut::PowerCut),
        Box::new(rolling_restart::RollingRestart),
        Box::new(slow_disk::SlowDisk),
        Box::new(slow_replica::SlowReplica),
    ]
}
