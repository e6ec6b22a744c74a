//! Calls without a session.

use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;

use crate::raw::{Alone, alone, counter, failure, get_counter, increment, operation, set};

async fn call(alone: &Alone, key: &[u8], what: Operation) -> Outcome {
    let request =
        v1::CallRequest { idempotency_key: key.to_vec().into(), deadline_ms: 0, operation: operation(what) };
    let reply = alone.client().await.call(request).await.expect("failures are inside the reply").into_inner();
    reply.outcome.and_then(|outcome| outcome.outcome).expect("an outcome")
}

/// Spec S-6: the same idempotency key gets the first answer again; without one each call counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_key_makes_a_retry_safe() {
    let alone = alone().await;
    for _ in 0..3 {
        assert_eq!(counter(&call(&alone, b"order 66", increment("/hits", 10)).await), 10);
    }
    assert_eq!(counter(&call(&alone, b"", increment("/hits", 1)).await), 11);
    assert_eq!(counter(&call(&alone, b"", increment("/hits", 1)).await), 12);
    assert_eq!(counter(&call(&alone, b"", get_counter("/hits")).await), 12);
    let outcome = call(&alone, &[1; 121], increment("/hits", 1)).await;
    assert_eq!(failure(&outcome).0, Code::InvalidArgument);
}

/// Spec N-5, N-6: files by single calls, with compare-and-swap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_by_single_calls() {
    let alone = alone().await;
    assert!(
        matches!(call(&alone, b"", set("/file", 10)).await, Outcome::Written(written) if written.created)
    );
    let swap = Operation::SetContents(v1::SetContents {
        path: "/file".to_owned(),
        contents: "new".into(),
        if_generation: Some(7),
        parents: false,
    });
    let outcome = call(&alone, b"", swap).await;
    let (code, refused) = failure(&outcome);
    assert_eq!((code, refused.current_generation), (Code::GenerationMismatch, Some(1)));
    let get = Operation::GetContents(v1::GetContents { path: "/file".to_owned() });
    let Outcome::Contents(file) = call(&alone, b"", get).await else { panic!("a file") };
    assert_eq!(file.contents, vec![7; 10]);
    assert_eq!(file.stat.expect("a stat").content_generation, 1);
}

/// Spec N-7 in part: a directory is listed in pages, in name order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_are_listed_in_pages() {
    let alone = alone().await;
    for i in 0..25 {
        call(&alone, b"", set(&format!("/file-{i:02}"), 1)).await;
    }
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page = Operation::ReadDirectory(v1::ReadDirectory {
            path: "/".to_owned(),
            after,
            limit: 10,
            at_revision: 0,
        });
        let Outcome::Directory(page) = call(&alone, b"", page).await else { panic!("a page") };
        names.extend(page.entries.into_iter().map(|entry| entry.name));
        after = names.last().cloned().expect("a page has entries");
        if !page.more {
            break;
        }
    }
    assert_eq!(names, (0..25).map(|i| format!("file-{i:02}")).collect::<Vec<_>>());
}

/// Spec N-4, N-5, N-10, A-1: what is known of a node, and how much of a quota is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_quotas_are_described() {
    let alone = alone().await;
    let (mut stream, _) = alone.new_session().await;
    let acl = v1::AclNames { read: "".into(), write: "staff".into(), change_acl: "".into() };
    let open = v1::OpenNode {
        path: "/d/f".to_owned(),
        mode: Some(v1::Mode { read: true, ..v1::Mode::default() }),
        create: Some(v1::Creation {
            kind: v1::Kind::File.into(),
            ephemeral: true,
            contents: "abc".into(),
            acl: Some(acl.clone()),
            parents: true,
            must: true,
        }),
        ..v1::OpenNode::default()
    };
    let Outcome::NodeOpened(opened) = stream.done(1, Operation::OpenNode(open)).await else { panic!() };
    assert!(opened.created);
    let stat = Operation::GetStat(v1::GetStat { path: "/d/f".to_owned() });
    let Outcome::Stat(stat) = call(&alone, b"", stat).await else { panic!("a stat") };
    assert_eq!((stat.ephemeral, stat.acl, stat.instance), (true, Some(acl), opened.instance));

    let quota = v1::SetQuota { path: "/d".to_owned(), nodes: Some(2), bytes: None };
    assert!(matches!(call(&alone, b"", Operation::SetQuota(quota)).await, Outcome::Done(_)));
    call(&alone, b"", set("/d/g", 10)).await;
    assert_eq!(failure(&call(&alone, b"", set("/d/h", 1)).await).0, Code::QuotaExceeded);
    let quota = Operation::GetQuota(v1::GetQuota { path: "/d".to_owned() });
    let Outcome::Quota(quota) = call(&alone, b"", quota).await else { panic!("a quota") };
    assert_eq!((quota.nodes, quota.bytes, quota.used_nodes, quota.used_bytes), (Some(2), None, 2, 13));

    let close = Operation::CloseHandles(v1::CloseHandles { handles: vec![opened.handle] });
    stream.done(2, close).await;
    assert_eq!(failure(&stream.done(3, crate::raw::get("/d/f")).await).0, Code::NotFound);
}

/// Sessions and locks are listed in pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_locks_are_listed_in_pages() {
    let alone = alone().await;
    let mut streams = Vec::new();
    for i in 0..5 {
        let (mut stream, session) = alone.new_session().await;
        let handle = stream.open(1, &format!("/lock-{i}")).await;
        stream.done(2, crate::raw::acquire(handle, false)).await;
        streams.push((stream, session));
    }
    let (mut sessions, mut after) = (Vec::new(), 0);
    loop {
        let list = Operation::ListSessions(v1::ListSessions { after, limit: 2 });
        let Outcome::Sessions(page) = call(&alone, b"", list).await else { panic!("a page") };
        sessions.extend(page.sessions.iter().map(|session| session.session));
        after = *sessions.last().expect("a page has entries");
        if !page.more {
            break;
        }
    }
    assert_eq!(sessions, streams.iter().map(|(_, session)| *session).collect::<Vec<_>>());
    let (mut locks, mut after) = (Vec::new(), String::new());
    loop {
        let list = Operation::ListLocks(v1::ListLocks { below: "/".to_owned(), after, limit: 2 });
        let Outcome::Locks(page) = call(&alone, b"", list).await else { panic!("a page") };
        locks.extend(page.locks.into_iter().map(|lock| lock.path));
        after = locks.last().cloned().expect("a page has entries");
        if !page.more {
            break;
        }
    }
    assert_eq!(locks, (0..5).map(|i| format!("/lock-{i}")).collect::<Vec<_>>());
    let one = Operation::ListLocks(v1::ListLocks { below: "/lock-3".to_owned(), ..v1::ListLocks::default() });
    let Outcome::Locks(page) = call(&alone, b"", one).await else { panic!("a page") };
    assert_eq!((page.locks.len(), page.more), (1, false));
}

/// Spec S-6, A-2: one caller's key gets another nothing of what the first was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_each_principals_own() {
    let principal = |name| bramah_server::TokenKey::new(&[42; 32]).and_then(|key| key.create(name, None));
    let alone = crate::raw::alone_with(|config| crate::principals::key_file(config, &[42; 32], 0o600)).await;
    let mut told = Vec::new();
    for token in ["".to_owned(), principal("ann").expect("a token"), principal("ben").expect("a token")] {
        for _ in 0..2 {
            let request = v1::CallRequest {
                idempotency_key: "order 66".into(),
                deadline_ms: 0,
                operation: operation(increment("/n", 1)),
            };
            let reply = alone.client().await.call(crate::raw::shown(&token, request)).await;
            let outcome = reply.expect("an answer").into_inner().outcome.and_then(|o| o.outcome);
            told.push(counter(&outcome.expect("an outcome")));
        }
    }
    assert_eq!(told, [1, 1, 2, 2, 3, 3]);
}

/// The status of a replica, with the digest of its state (spec G-9 in part).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_tells_how_it_is() {
    let alone = alone().await;
    call(&alone, b"", increment("/hits", 1)).await;
    let status = alone.client().await.status(v1::StatusRequest { digest: true }).await.expect("it answers");
    let status = status.into_inner();
    assert_eq!((status.cell.as_str(), status.replica, status.role.as_str()), ("test", 1, "leader"));
    assert_eq!(status.leader.expect("there is one").replica, 1);
    assert_eq!(status.nodes, 2, "the root and the counter");
    assert!(status.applied_index > 0 && status.digest_index >= status.applied_index);
    assert!(status.digest.is_some() && status.log_bytes > 0 && status.disk_free_bytes > 0);
    assert_eq!(status.trouble, "");
}

/// A cell of one is its own majority: it goes on after it was left alone for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_of_one_stays_its_own_leader() {
    let alone = alone().await;
    assert_eq!(counter(&call(&alone, b"", increment("/hits", 1)).await), 1);
    // Several times as long as a leader may be without word from others.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert!(alone.server.status().leadership.here);
    assert_eq!(counter(&call(&alone, b"", increment("/hits", 1)).await), 2);
}
