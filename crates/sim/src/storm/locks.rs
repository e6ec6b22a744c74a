//! Applications that want locks, say that they are there by ephemeral nodes, and move things in transactions.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bramah_client::{Client, Error, Handle, Lock, LockStatus, TxnOp};
use rand::RngExt;
use rand::rngs::StdRng;

use super::client::Application;
use super::ledger::{LOCK_DELAY_MS, PAIR, lock, now_ns};
use crate::check::locks::Hold;

/// How long one waits for a lock.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often a holder looks whether it still holds.
const LOOK: Duration = Duration::from_millis(20);
/// A hold lasts fewer looks than this. The first lock is held long enough for its holder to die now and then.
const LOOKS: u32 = 20;
const LOOKS_AT_THE_FIRST: u32 = 150;

/// Wants locks until it is enough.
pub(super) async fn contend(application: Application, client: Client, who: String, mut random: StdRng) {
    while !application.enough.load(Ordering::Relaxed) {
        pause(&application, &mut random).await;
        let key = random.random_range(0..super::ledger::LOCKS);
        let mut request = client.lock(lock(key)).within(PATIENCE);
        if key == 0 {
            request = request.lock_delay(Duration::from_millis(LOCK_DELAY_MS));
        }
        if key == 1 && random.random_ratio(2, 3) {
            request = request.shared();
        }
        if let Ok(held) = request.await {
            let looks = random.random_range(0..if key == 0 { LOOKS_AT_THE_FIRST } else { LOOKS });
            hold(&application, &client, &who, held, looks, &mut random).await;
        }
    }
}

/// Works under a lock for a moment, and gives it back.
async fn hold(
    application: &Application,
    client: &Client,
    who: &str,
    held: Lock,
    looks: u32,
    random: &mut StdRng,
) {
    let (from, sequencer) = (now_ns(), held.sequencer().clone());
    let name: Arc<str> = sequencer.path.as_str().into();
    let shown = (sequencer.instance, sequencer.generation);
    let mut until = from;
    for _ in 0..looks {
        if held.status() != LockStatus::Held {
            break;
        }
        until = now_ns();
        let fits = application.ledger.write_guarded(&name, shown);
        // Whoever holds it for certain is the newest: nobody can have had it since.
        if !fits && held.status() == LockStatus::Held {
            application.ledger.report(format!("{who} holds {sequencer}, and a newer one was seen already"));
        }
        tokio::time::sleep(LOOK).await;
    }
    application.ledger.held(Hold {
        lock: name,
        who: who.to_owned(),
        sequencer: shown,
        shared: sequencer.shared,
        from,
        until,
    });
    if random.random_ratio(1, 8) {
        // Given back in the background.
        return drop(held);
    }
    if held.release().await.is_ok() && !sequencer.shared && random.random_ratio(1, 2) {
        // Spec L-4: nobody can show it any more.
        if client.check_sequencer(&sequencer).await.is_ok() {
            application.ledger.report(format!("{sequencer} was given back by {who}, and passes for valid"));
        }
    }
}

/// Is there by an ephemeral node, and looks whether all others see it.
pub(super) async fn stay(application: Application, client: Client, mut random: StdRng) {
    let path = format!("/here-{}", application.incarnation);
    while !application.enough.load(Ordering::Relaxed) {
        let Ok(here) = client.open(&*path).write().create().ephemeral().await else {
            pause(&application, &mut random).await;
            continue;
        };
        while !application.enough.load(Ordering::Relaxed) {
            pause(&application, &mut random).await;
            if !is_healthy(&client, &here) {
                break;
            }
            let seen = client.stat(&*path).await;
            if matches!(seen, Err(Error::NotFound { .. })) && is_healthy(&client, &here) {
                application.ledger.report(format!("{path} is gone, and the session that has it open lives"));
            }
        }
    }
}

/// Whether the session that opened the handle lives for certain.
fn is_healthy(client: &Client, handle: &Handle) -> bool {
    let session = client.session();
    session.is_some_and(|now| now.session == handle.session() && !now.lease_left.is_zero())
}

/// Moves 1 from one of a pair of counters to the other, all or nothing. Some transactions fail in their last part.
pub(super) async fn transfer(application: Application, client: Client, mut random: StdRng) {
    while !application.enough.load(Ordering::Relaxed) {
        pause(&application, &mut random).await;
        let mut operations = vec![TxnOp::increment(PAIR[0], 1), TxnOp::increment(PAIR[1], -1)];
        let fails = random.random_ratio(1, 4);
        if fails {
            operations.push(TxnOp::delete("/never-there"));
        }
        application.ledger.moves();
        match client.txn().then(operations).commit().await {
            Ok(_) if fails => {
                application.ledger.report("a transaction was done, and a part of it can't be".to_owned());
            }
            Ok(_) => application.ledger.moved(true),
            Err(error) if error.may_have_been_done() => {}
            Err(_) => application.ledger.moved(false),
        }
    }
}

async fn pause(application: &Application, random: &mut StdRng) {
    let think = application.think.as_micros() as u64;
    tokio::time::sleep(Duration::from_micros(random.random_range(0..=3 * think))).await;
}
