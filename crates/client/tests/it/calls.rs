//! Calls: batched, answered once, repeated and given up (spec S-3, S-6).

use std::time::Duration;

use bramah_client::{Client, Error};
use bramah_wire::v1::failure::Code;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::fake::{Act, Cell, Open, address, failure};

/// As many increments of one counter at once; their values, ordered.
async fn increments(client: &Client, count: usize) -> Vec<i64> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let counter = client.counter("/c");
        tasks.spawn(async move { counter.increment(1).await.expect("incremented") });
    }
    let mut values = tasks.join_all().await;
    values.sort_unstable();
    values
}

/// Spec S-3: the calls of many callers travel together on the session's one stream.
#[tokio::test(start_paused = true)]
async fn callers_share_messages() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    assert_eq!(increments(&client, 1000).await, (1..=1000).collect::<Vec<_>>());
    let messages = cell.messages();
    assert!(messages.len() <= 8, "{} messages for 1,000 calls at once", messages.len());
    let numbers: Vec<u64> = messages.into_iter().flat_map(|message| message.numbers).collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    assert_eq!(cell.state().opened.len(), 1, "one stream");
}

/// Spec S-6: calls go again under their numbers when the connection broke after they were done.
#[tokio::test(start_paused = true)]
async fn a_broken_connection_neither_loses_nor_doubles() {
    let cell = Cell::start(3).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::DoAndBreak));
    cell.behave(2, |replica| replica.acts.push_back(Act::Break));
    assert_eq!(increments(&client, 100).await, (1..=100).collect::<Vec<_>>());
    assert_eq!(cell.counter("/c"), 100);
    let messages = cell.messages();
    assert!(messages.len() >= 3, "sent at each replica: {messages:?}");
    for message in &messages {
        assert_eq!(message.numbers, (1..=100).collect::<Vec<_>>(), "the same numbers in the same order");
        assert_eq!(message.session, messages[0].session);
    }
    increments(&client, 1).await;
    assert_eq!(cell.messages().last().unwrap().confirmed, 100);
}

/// Spec S-6: a storm of broken connections, with answers and without, and every increment counts once.
#[tokio::test(start_paused = true)]
async fn many_breaks_under_load_neither_lose_nor_double() {
    let cell = Cell::start(3).await;
    let client = cell.client().connect().await.unwrap();
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let counter = client.counter("/c");
        tasks.spawn(async move {
            for _ in 0..50 {
                counter.increment(1).await.expect("incremented");
                sleep(Duration::from_millis(3)).await;
            }
        });
    }
    for round in 0..100 {
        sleep(Duration::from_millis(7)).await;
        let replica = round % 3 + 1;
        let act = if round % 2 == 0 { Act::DoAndBreak } else { Act::Break };
        cell.behave(replica, |replica| replica.acts.push_back(act));
        cell.network.cut(&address(round % 2 + 1));
    }
    tasks.join_all().await;
    assert_eq!(cell.counter("/c"), 1000);
    assert!(cell.state().opened.len() > 20, "connections did break");
}

/// Spec S-1, S-6: the answer to the opening was lost; asking again with the same nonce makes one session.
#[tokio::test(start_paused = true)]
async fn an_opening_that_is_repeated_makes_one_session() {
    let cell = Cell::start(1).await;
    cell.behave(1, |replica| {
        replica.opens.extend([Open::Ignore, Open::AcceptAndBreak, Open::AcceptAndBreak]);
    });
    let client = cell.client().connect().await.unwrap();
    assert_eq!(cell.state().opened.len(), 4);
    assert_eq!(cell.sessions(), 1);
    assert_eq!(client.session().unwrap().session, 1);
}

/// A cell without a majority: the cell's own words reach the caller, and that nothing was done.
#[tokio::test(start_paused = true)]
async fn a_cell_without_a_leader_gives_its_words_at_the_deadline() {
    let cell = Cell::start(1).await;
    let client = cell.client().deadline(Duration::from_secs(2)).connect().await.unwrap();
    let words = "unavailable: no leader, members 1 (replica-1:1), 2 (replica-2:1)";
    cell.behave(1, |replica| replica.then = Act::Refuse(failure(Code::Unavailable, words)));
    let start = Instant::now();
    let error = client.counter("/c").increment(1).await.unwrap_err();
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2100), "{took:?}");
    assert!(matches!(error, Error::DeadlineExceeded { may_have_been_done: false, .. }), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(cell.messages().len() > 5, "it was tried again and again");
    cell.behave(1, |replica| replica.then = Act::Answer);
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1);
}

/// Spec S-6: a call that was given up is confirmed, and its late answer disturbs nobody.
#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_at_its_deadline() {
    let cell = Cell::start(1).await;
    let client = cell.client().deadline(Duration::from_secs(3)).connect().await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::AnswerLate(Duration::from_millis(3500))));
    let error = client.counter("/c").increment(1).await.unwrap_err();
    assert!(error.may_have_been_done() && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("no answer to increment /c within its 3 s"), "{error}");
    let read = client.counter("/c").get().await.unwrap();
    assert_eq!(read, 1, "it was done");
    let last = cell.messages().pop().unwrap();
    assert_eq!((last.numbers, last.confirmed), (vec![2], 1));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 2);
    assert_eq!(cell.state().opened.len(), 1, "a slow answer is no reason to leave a replica that is there");
}

/// Retries of refused calls have a budget: an overloaded cell isn't asked for ever.
#[tokio::test(start_paused = true)]
async fn an_overloaded_cell_is_spared() {
    let cell = Cell::start(1).await;
    let client = cell.client().deadline(Duration::from_secs(60)).connect().await.unwrap();
    cell.behave(1, |replica| replica.then = Act::Refuse(failure(Code::Overloaded, "too much to do")));
    let mut tasks = JoinSet::new();
    for _ in 0..500 {
        let counter = client.counter("/c");
        tasks.spawn(async move { counter.increment(1).await.unwrap_err() });
    }
    let errors = tasks.join_all().await;
    assert!(errors.iter().all(|error| !error.may_have_been_done()));
    let overloaded = errors.iter().filter(|error| matches!(error, Error::Overloaded { .. })).count();
    assert!(overloaded > 400, "{overloaded} of 500 were told so before their deadline");
    let sent: usize = cell.messages().iter().map(|message| message.numbers.len()).sum();
    assert!(sent > 1000, "it did retry: {sent}");
    assert!(sent <= 500 + 4096 + 60 * 10, "500 calls were sent {sent} times");
}

/// What a caller no longer waits for disturbs nobody else.
#[tokio::test(start_paused = true)]
async fn a_cancelled_call_disturbs_nobody() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.acts.push_back(Act::AnswerLate(Duration::from_secs(2))));
    let counter = client.counter("/c");
    assert!(timeout(Duration::from_secs(1), counter.increment(1)).await.is_err(), "given up");
    assert_eq!(counter.increment(1).await.unwrap(), 2, "the first was done all the same");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(counter.increment(1).await.unwrap(), 3);
    assert_eq!(cell.messages().last().unwrap().confirmed, 2, "its answer was taken for it");

    // Given up before there was a connection to send it on: nobody ever hears of it.
    cell.kill(1);
    assert!(timeout(Duration::from_secs(1), counter.increment(10)).await.is_err());
    cell.start_replica(1).await;
    assert_eq!(counter.increment(1).await.unwrap(), 4);
}

/// A session's window: at most 4,096 numbers between the confirmed one and the newest, the rest waits.
#[tokio::test(start_paused = true)]
async fn the_window_is_bounded() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    for round in 0..2 {
        cell.behave(1, |replica| replica.acts.push_back(Act::AnswerLate(Duration::from_millis(500))));
        let counter = client.counter("/c");
        let first = tokio::spawn(async move { counter.increment(1).await });
        sleep(Duration::from_millis(1)).await;
        let many = tokio::spawn({
            let client = client.clone();
            async move { increments(&client, 6000).await.len() }
        });
        sleep(Duration::from_millis(100)).await;
        let newest = cell.messages().iter().flat_map(|seen| seen.numbers.clone()).max().unwrap();
        assert_eq!(newest, round * 6001 + 4096, "the first one holds the window");
        first.await.unwrap().unwrap();
        assert_eq!(many.await.unwrap(), 6000);
    }
    assert_eq!(cell.counter("/c"), 2 * 6001);
    for message in cell.messages() {
        assert!(message.numbers.iter().all(|number| number - message.confirmed <= 4096), "{message:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_window_counts_against_the_deadline() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    cell.behave(1, |replica| replica.then = Act::Ignore);
    let mut waiting = JoinSet::new();
    for _ in 0..4096 {
        let counter = client.counter("/c");
        waiting.spawn(async move { counter.increment(1).await });
    }
    sleep(Duration::from_millis(1)).await;
    let hasty = client.with_deadline(Duration::from_millis(300)).unwrap();
    let error = hasty.counter("/c").increment(1).await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { may_have_been_done: false, .. }), "{error:?}");
    assert!(error.to_string().contains("4096 calls of this client wait before it"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_call_over_the_limit_is_refused_here() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    let error = client.set("/big", vec![0; 4 << 20]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }) && !error.may_have_been_done(), "{error:?}");
    assert_eq!(client.counter("/c").increment(1).await.unwrap(), 1, "the session goes on");
}

#[tokio::test(start_paused = true)]
async fn a_large_directory_is_read_in_pages() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    let entries = client.list("/").await.unwrap();
    assert_eq!(entries.len(), 2500);
    assert!(entries.is_sorted_by(|before, after| before.name < after.name));
    assert_eq!(cell.messages().len(), 3, "pages of 1,000");
    let page = client.list_page("/", "file-0009", 2).await.unwrap();
    assert_eq!(page.entries[0].name, "file-0010");
    assert!(page.more);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reaches_the_caller_as_it_is() {
    let cell = Cell::start(1).await;
    let client = cell.client().connect().await.unwrap();
    let error = client.counter("/none").get().await.unwrap_err();
    assert_eq!(error, Error::NotFound { message: "no such counter".into() });
    assert_eq!(cell.messages().len(), 1, "and is not tried again");
}
