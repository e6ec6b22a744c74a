//! Who gives an imagined disk's workers their turns.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::disk::{Turn, Wake, Worker};

/// Gives workers turns, one at a time each.
pub trait Scheduler: Send + Sync {
    /// Lets `worker` take turns from now on, also one after each [`Wake::wake`].
    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>>;

    /// How long a reader's next call is held up.
    fn latency(&self) -> Duration {
        Duration::ZERO
    }
}

/// Turns are taken on the stack of whoever wakes the worker, so the same steps always happen in the same order.
/// Time does not pass by itself: [`Inline::tick`] says that it has. Workers live until they are done, or until
/// [`Inline::drop_workers`].
#[derive(Default)]
pub struct Inline {
    workers: Mutex<Vec<Arc<InlineWorker>>>,
    paused: Arc<AtomicBool>,
}

impl Inline {
    /// Lets work pile up until [`Inline::resume`].
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Ends a pause, and gives every worker a turn.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::Relaxed);
        self.tick();
    }

    /// Gives every worker a turn, as if its time had come.
    pub fn tick(&self) {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for worker in workers {
            worker.rested.store(true, Ordering::Relaxed);
            worker.wake();
        }
    }

    /// Drops all workers, those of a disk without power too. Not to be called from a turn.
    pub fn drop_workers(&self) {
        let workers = std::mem::take(&mut *self.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            // They hold the disk, which holds them.
            let worker = worker.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(worker);
        }
    }
}

impl Scheduler for Inline {
    fn start(&self, _name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>> {
        let worker = Arc::new(InlineWorker {
            worker: Mutex::new(Some(worker)),
            again: AtomicBool::new(false),
            rested: AtomicBool::new(false),
            paused: Arc::clone(&self.paused),
        });
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&worker));
        Ok(worker)
    }
}

struct InlineWorker {
    worker: Mutex<Option<Box<dyn Worker>>>,
    again: AtomicBool,
    /// The next turn comes because time has passed.
    rested: AtomicBool,
    paused: Arc<AtomicBool>,
}

impl Wake for InlineWorker {
    fn wake(&self) {
        self.again.store(true, Ordering::Relaxed);
        if self.paused.load(Ordering::Relaxed) {
            return;
        }
        // Someone else, or this very worker further up the stack, will see the flag.
        while let Ok(mut worker) = self.worker.try_lock() {
            if !self.again.swap(false, Ordering::Relaxed) {
                return;
            }
            let rested = self.rested.swap(false, Ordering::Relaxed);
            let turn = worker.as_mut().map_or(Turn::Done, |worker| worker.turn(rested));
            match turn {
                Turn::Again => self.again.store(true, Ordering::Relaxed),
                Turn::Done => *worker = None,
                Turn::Wait | Turn::WaitAtMost(_) => {}
            }
        }
    }
}

/// Says how long a worker's next turn is held up, by its name: how slow the disk is.
pub type Latency = Arc<dyn Fn(&str) -> Duration + Send + Sync>;

/// Each worker is a task of the tokio runtime in which it is started, and goes with it. Time is tokio's, so it
/// may be simulated.
#[derive(Clone)]
pub struct Tasks {
    latency: Latency,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new(Arc::new(|_| Duration::ZERO))
    }
}

impl Tasks {
    /// `latency` is asked before each turn that a wake or the time brings.
    pub fn new(latency: Latency) -> Self {
        Self { latency }
    }
}

impl Scheduler for Tasks {
    fn start(&self, name: &str, worker: Box<dyn Worker>) -> io::Result<Arc<dyn Wake>> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        let wake = Arc::new(TaskWake { notify: Notify::new() });
        runtime.spawn(take_turns(name.to_owned(), worker, Arc::clone(&wake), Arc::clone(&self.latency)));
        Ok(wake)
    }

    fn latency(&self) -> Duration {
        (self.latency)("reader")
    }
}

struct TaskWake {
    notify: Notify,
}

impl Wake for TaskWake {
    fn wake(&self) {
        self.notify.notify_one();
    }
}

async fn take_turns(name: String, mut worker: Box<dyn Worker>, wake: Arc<TaskWake>, latency: Latency) {
    let mut rested = false;
    loop {
        let held_up = latency(&name);
        if !held_up.is_zero() {
            tokio::time::sleep(held_up).await;
        }
        match worker.turn(std::mem::take(&mut rested)) {
            Turn::Again => tokio::task::yield_now().await,
            Turn::Wait => wake.notify.notified().await,
            Turn::WaitAtMost(time) => {
                rested = tokio::time::timeout(time, wake.notify.notified()).await.is_err();
            }
            Turn::Done => return,
        }
    }
}
