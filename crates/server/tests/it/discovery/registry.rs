//! Registering, looking up and following.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bramah_client::discovery::{Change, Health, Instance, RegistrationState, Update};
use bramah_client::{Client, Error, Route};
use tokio::task::JoinSet;

use super::cuttable::Cuttable;
use super::{addresses, here, ids, one, put, until};
use crate::raw::LIMIT;
use crate::recipes::{cell, in_time};

/// Spec R-1: what is registered is found, at any replica, with all that it says of itself; people may write it by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_registered_is_found() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let registry = clients[1].registry();
        assert!(registry.lookup("web").await.unwrap().services.is_empty());
        let whole = Instance {
            weight: 3,
            zone: Some("eu-1".into()),
            tags: vec!["v2".into()],
            metadata: BTreeMap::from([("build".into(), "7f3a".into())]),
            health: Health::Warning,
            ..here(8080)
        };
        let registered = clients[0].registry().register("web", "web-1", whole.clone()).await.unwrap();
        clients[2]
            .set("/services/web/by-hand", r#"{"address":"a.example","port":1,"new":[]}"#)
            .await
            .unwrap();
        clients[2].set("/services/web/wrong", "port 80").await.unwrap();
        clients[2].set("/services/web/No-Name", "").await.unwrap();
        clients[2].mkdir("/services/web/directory").await.unwrap();
        put(&clients[2], "fixed", &here(1)).await;
        let found = registry.lookup("web").await.unwrap();
        assert_eq!(ids(&found, "web"), ["by-hand", "fixed", "web-1"]);
        assert_eq!((&one(&found, "web-1").instance, one(&found, "web-1").permanent), (&whole, false));
        assert!(one(&found, "fixed").permanent);
        let wrong: Vec<_> = found.invalid.keys().map(|(_, id)| id.to_string()).collect();
        assert_eq!(wrong, ["wrong"]);
        assert_eq!(registry.services().await.unwrap(), ["web"]);
        assert_eq!(registry.lookup_all().await.unwrap().services, found.services);
        // The contents are for people too.
        let file = clients[2].get(registered.path()).await.unwrap();
        assert_eq!(Instance::decode(&file.contents), Ok(whole));
        let refused = registry.register("web", "Web", here(1)).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
        let refused = registry.put("web", "x", &here(0)).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{refused:?}");
    })
    .await;
}

/// Spec R-1: the full list first, then what changed, each with its revision; and on from any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_the_list_and_then_changes_and_can_be_resumed() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let registry = clients[1].registry();
        put(&clients[0], "a", &here(1)).await;
        let mut watch = registry.watch("web").await.unwrap();
        let Update::Full(first) = watch.next().await.unwrap() else { panic!("a full list comes first") };
        assert_eq!(ids(&first, "web"), ["a"]);
        let changed = put(&clients[0], "a", &here(2)).await;
        let update = watch.next().await.unwrap();
        assert!(changed > first.revision && update.revision() == changed);
        let Update::Delta { changes, .. } = update else { panic!("only what changed") };
        assert!(matches!(&changes[..], [Change::Put(one)] if one.instance.port == 2), "{changes:?}");
        let second = clients[2].registry().register("web", "b", here(3)).await.unwrap();
        assert!(matches!(&*changes_of(&mut watch).await, [Change::Put(one)] if &*one.id == "b"));
        // Another service is none of its business, nor is a file that says what it said before.
        clients[0].registry().put("other", "a", &here(1)).await.unwrap();
        put(&clients[0], "a", &here(2)).await;
        second.deregister().await;
        let told = changes_of(&mut watch).await;
        let removed = |change: &Change| matches!(change, Change::Removed { id, .. } if &**id == "b");
        assert!(told.iter().any(removed), "{told:?}");
        assert!(clients[2].registry().deregister("web", "a").await.unwrap());
        assert!(!clients[2].registry().deregister("web", "a").await.unwrap());
        assert!(matches!(&*changes_of(&mut watch).await, [Change::Removed { id, .. }] if &**id == "a"));

        // From the first list on, at another replica: where it ends is the same.
        let mut resumed = clients[0].registry().resume("web", first.revision).await.unwrap();
        let mut known: BTreeMap<String, u16> = BTreeMap::from([("a".into(), 1)]);
        while !known.is_empty() {
            match resumed.next().await.unwrap() {
                Update::Delta { changes, .. } => changes.iter().for_each(|change| apply(&mut known, change)),
                Update::Full(_) => panic!("the events are still there"),
            }
        }
    })
    .await;
}

async fn changes_of(watch: &mut bramah_client::discovery::ServiceWatch) -> Vec<Change> {
    match watch.next().await.unwrap() {
        Update::Delta { changes, .. } => changes,
        Update::Full(_) => panic!("only what changed"),
    }
}

fn apply(known: &mut BTreeMap<String, u16>, change: &Change) {
    match change {
        Change::Put(one) => drop(known.insert(one.id.to_string(), one.instance.port)),
        Change::Removed { id, .. } => drop(known.remove(&**id)),
    }
}

/// Spec R-2: it leaves at once when it is deregistered, also by dropping; what somebody registered since by the same id stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deregistered_instance_is_gone() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let mut follower = clients[2].registry().follow("web").await.unwrap();
        let registry = clients[0].registry();
        let first = registry.register("web", "a", here(1)).await.unwrap();
        let second = clients[1].registry().register("web", "a", here(2)).await.unwrap();
        first.deregister().await;
        let left = registry.lookup("web").await.unwrap();
        assert_eq!(one(&left, "a").instance.port, 2, "the successor stays");
        second.deregister().await;
        assert!(
            registry.lookup("web").await.unwrap().services.is_empty(),
            "once it is deregistered, not later"
        );
        drop(registry.register("web", "b", here(3)).await.unwrap());
        until(&mut follower, |known| known.services.is_empty()).await;
        let removed = registry.register("web", "c", here(3)).await.unwrap();
        assert!(clients[1].registry().deregister("web", "c").await.unwrap());
        let mut states = removed.states();
        states.wait_for(|state| *state == RegistrationState::Removed).await.unwrap();
        assert!(registry.lookup("web").await.unwrap().services.is_empty(), "it does not come back by itself");
    })
    .await;
}

/// Spec R-2: of two processes with one id the later one counts. The earlier one learns of it, writes nothing over it, and
/// leaves it in place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_is_neither_overwritten_nor_removed() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let registry = clients[0].registry();
        let first = registry.register("web", "a", here(1)).await.unwrap();
        let mut states = first.states();
        let second = clients[1].registry().register("web", "a", here(2)).await.unwrap();
        let _ = first.update(|instance| instance.weight = 9);
        states.wait_for(|state| *state == RegistrationState::Replaced).await.unwrap();
        let _ = first.update(|instance| instance.weight = 8);
        first.deregister().await;
        let left = registry.lookup("web").await.unwrap();
        assert_eq!((one(&left, "a").instance.port, one(&left, "a").instance.weight), (2, 1));
        second.update(|instance| instance.weight = 3).unwrap();
        let mut follower = clients[2].registry().follow("web").await.unwrap();
        until(&mut follower, |known| one(known, "a").instance.weight == 3).await;
        assert!(matches!(second.state(), RegistrationState::Registered { .. }));
    })
    .await;
}

/// Spec R-2: a process that is started while its predecessor takes leave is registered, whichever comes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_may_come_while_its_predecessor_goes() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let mut last = clients[0].registry().register("web", "a", here(1)).await.unwrap();
        for port in 2..40 {
            let registry = clients[usize::from(port) % 2].registry();
            let (registered, ()) = tokio::join!(registry.register("web", "a", here(port)), last.deregister());
            last = registered.unwrap();
            let found = clients[2].registry().lookup("web").await.unwrap();
            assert_eq!(one(&found, "a").instance.port, port);
            assert!(matches!(last.state(), RegistrationState::Registered { .. }), "{:?}", last.state());
        }
    })
    .await;
}

/// Spec R-2: what an operator registered for good does not become one process's, nor the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_good_and_for_a_session_exclude_each_other() {
    let cell = cell().await;
    let clients = &cell.clients;
    in_time(async {
        let registry = clients[0].registry();
        put(&clients[1], "fixed", &here(1)).await;
        let refused = registry.register("web", "fixed", here(2)).await;
        assert!(matches!(refused, Err(Error::AlreadyExists { .. })), "{refused:?}");
        let _living = registry.register("web", "living", here(3)).await.unwrap();
        let refused = clients[1].registry().put("web", "living", &here(4)).await;
        assert!(matches!(refused, Err(Error::AlreadyExists { .. })), "{refused:?}");
        let found = registry.lookup("web").await.unwrap();
        let ports = ["fixed", "living"].map(|id| one(&found, id).instance.port);
        assert_eq!(
            (ports, one(&found, "fixed").permanent, one(&found, "living").permanent),
            ([1, 3], true, false)
        );
    })
    .await;
}

/// Spec R-2: a removal of which the registration hears late, because it was cut off, is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_while_it_is_cut_off_is_heard_of() {
    let cell = cell().await;
    let (network, addresses) = (Cuttable::new(), addresses(&cell));
    in_time(async {
        let client = Client::builder()
            .addresses(addresses)
            .transport(Arc::new(network.clone()))
            .deadline(Duration::from_millis(200))
            .connect()
            .await
            .unwrap();
        let registration = client.registry().register("web", "a", here(1)).await.unwrap();
        network.cut();
        assert!(cell.clients[1].registry().deregister("web", "a").await.unwrap());
        network.mend();
        let mut states = registration.states();
        states.wait_for(|state| *state == RegistrationState::Removed).await.unwrap();
    })
    .await;
}

/// Spec R-2: when its process dies without a word it leaves with its session; one that was registered for good stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_leaves_with_its_session() {
    let cell = cell().await;
    let addresses = addresses(&cell);
    in_time(async {
        let mut follower = cell.clients[1].registry().follow("web").await.unwrap();
        // A process of its own, as far as anyone can see: nothing of it says goodbye.
        let process =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let living = process.spawn(async move {
            let client =
                Client::builder().addresses(addresses).route(Route::Fixed(0)).lease(Duration::from_secs(1));
            let client = client.connect().await.unwrap();
            let registration = client.registry().register("web", "mortal", here(1)).await.unwrap();
            put(&client, "fixed", &here(2)).await;
            (client, registration)
        });
        let _alive = living.await.unwrap();
        until(&mut follower, |known| ids(known, "web") == ["fixed", "mortal"]).await;
        process.shutdown_background();
        until(&mut follower, |known| ids(known, "web") == ["fixed"]).await;
    })
    .await;
}

/// Spec R-2: a process that was cut off for longer than its lease is registered again by itself, with what it says by then. A
/// follower that is cut off keeps what it knew, and catches up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_comes_back_after_its_session_expired() {
    let cell = cell().await;
    let (network, addresses) = (Cuttable::new(), addresses(&cell));
    in_time(async {
        let client = Client::builder()
            .addresses(addresses)
            .lease(Duration::from_secs(1))
            .grace(Duration::from_millis(100))
            .transport(Arc::new(network.clone()))
            .deadline(LIMIT)
            .route(Route::Fixed(0))
            .connect()
            .await
            .unwrap();
        let mut elsewhere = cell.clients[1].registry().follow("web").await.unwrap();
        let registration = client.registry().register("web", "a", here(1)).await.unwrap();
        put(&cell.clients[1], "fixed", &here(9)).await;
        let mut follower = client.registry().follow("web").await.unwrap();
        let RegistrationState::Registered { session: before } = registration.state() else { panic!() };
        until(&mut elsewhere, |known| ids(known, "web") == ["a", "fixed"]).await;
        network.cut();
        until(&mut elsewhere, |known| ids(known, "web") == ["fixed"]).await;
        assert_eq!(ids(&follower.snapshot(), "web"), ["a", "fixed"], "the last that is known");
        let mut states = registration.states();
        states.wait_for(|state| matches!(state, RegistrationState::Away { .. })).await.unwrap();
        registration.update(|instance| instance.weight = 7).unwrap();
        put(&cell.clients[1], "newcomer", &here(10)).await;
        network.mend();
        let newest = |known: &bramah_client::discovery::Snapshot| {
            known.get("web", "a").is_some_and(|one| one.instance.weight == 7)
        };
        until(&mut elsewhere, newest).await;
        let again = |state: &RegistrationState| {
            matches!(state, RegistrationState::Registered { session } if *session != before)
        };
        states.wait_for(again).await.unwrap();
        until(&mut follower, |known| ids(known, "web") == ["a", "fixed", "newcomer"] && newest(known)).await;
    })
    .await;
}

/// Spec R-4: thousands of instances come, change and go at once, and followers read the list once and each change once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_change_and_nobody_reads_the_list_again() {
    const COUNT: u16 = 2_000;
    // Debug builds walk all of the state after each batch, at three replicas: that takes time.
    let long = 4 * LIMIT;
    let cell = cell().await;
    let changing = async {
        let mut followers = Vec::new();
        for client in &cell.clients {
            followers.push(client.registry().follow("web").await.unwrap());
        }
        let client = &cell.clients[0];
        for weight in [1, 2] {
            let mut puts = JoinSet::new();
            for port in 1..=COUNT {
                let registry = client.registry();
                let instance = Instance { weight, ..here(port) };
                puts.spawn(
                    async move { registry.put("web", &format!("i-{port}"), &instance).await.unwrap() },
                );
            }
            puts.join_all().await;
            for follower in &mut followers {
                let all = |known: &bramah_client::discovery::Snapshot| {
                    known.instances("web").filter(|one| one.instance.weight == weight).count()
                        == usize::from(COUNT)
                };
                until(follower, all).await;
            }
        }
        for follower in &followers {
            let reads = follower.reads();
            assert_eq!(reads.listings, 1, "the first one");
            assert!(reads.instances <= 2 * u64::from(COUNT), "{reads:?}");
        }
        let before: Vec<_> = followers.iter().map(|follower| follower.reads()).collect();
        let mut removals = JoinSet::new();
        for port in 1..=COUNT {
            let registry = client.registry();
            removals.spawn(async move { registry.deregister("web", &format!("i-{port}")).await.unwrap() });
        }
        assert!(removals.join_all().await.iter().all(|was_there| *was_there));
        for (follower, before) in followers.iter_mut().zip(before) {
            until(follower, |known| known.services.is_empty()).await;
            assert_eq!(follower.reads(), before, "what is gone needn't be read");
        }
    };
    tokio::time::timeout(long, changing).await.expect("in time");
}
