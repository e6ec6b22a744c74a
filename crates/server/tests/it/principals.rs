//! Who callers are, and what that lets them do.

use bramah_server::{Server, ServerConfig, TokenKey};
use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::handle_state::Place;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;

use crate::raw::{
    Alone, acquire, alone, alone_with, delete, failure, get, handle, increment, nonce, open_file,
    open_for_reading, set, shown, watch,
};

const KEY: [u8; 32] = [42; 32];

fn token(name: &str) -> String {
    TokenKey::new(&KEY).and_then(|key| key.create(name, None)).expect("a token")
}

pub(crate) fn key_file(config: &mut ServerConfig, bytes: &[u8], mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let file = config.data.with_extension("key");
    std::fs::write(&file, bytes).expect("it is written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("it is mine");
    config.token_key_file = Some(file);
}

/// A cell in which only `ann` may read and write `/secret`, and `ben` may only read `/shared`.
async fn guarded() -> Alone {
    let alone = alone_with(|config| key_file(config, &KEY, 0o600)).await;
    let put = |path: &str, text: &'static str| {
        Operation::SetContents(v1::SetContents {
            path: path.to_owned(),
            contents: text.into(),
            parents: true,
            ..v1::SetContents::default()
        })
    };
    let names = |read: &str, write: &str| {
        Some(v1::AclNames { read: read.into(), write: write.into(), change_acl: "ann".into() })
    };
    for (path, text) in [("/acl/ann", "ann"), ("/acl/both", "ann\nben"), ("/secret/a", "x"), ("/shared", "y")]
    {
        let outcome = alone.single("", put(path, text)).await;
        assert!(matches!(outcome, Outcome::Written(_)), "{outcome:?}");
    }
    for (path, read, write) in
        [("/secret/a", "ann", "ann"), ("/secret", "ann", "ann"), ("/shared", "both", "ann")]
    {
        let acl = v1::SetAcl { path: path.to_owned(), names: names(read, write), if_generation: None };
        let outcome = alone.single(&token("ann"), Operation::SetAcl(acl)).await;
        assert!(matches!(outcome, Outcome::AclSet(_)), "{outcome:?}");
    }
    alone
}

/// Spec A-2: a token that is not good is refused, on streams, by calls and by changes of the members; none is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_not_good_are_refused() {
    let alone = guarded().await;
    let other = TokenKey::new(&[1; 32]).and_then(|key| key.create("ann", None)).expect("a token");
    let over = TokenKey::new(&KEY).and_then(|key| key.create("ann", Some(1))).expect("a token");
    for (bad, why) in
        [(&other, "this cell's key"), (&over, "have another one made"), (&"x".repeat(1_025), "1,024")]
    {
        let outcome = alone.single(bad, increment("/n", 1)).await;
        assert_eq!(failure(&outcome).0, Code::Unauthenticated);
        assert!(failure(&outcome).1.message.contains(why), "{outcome:?}");
        let open = v1::OpenSession { nonce: nonce(), ..v1::OpenSession::default() };
        let (_, head) = alone.stream_as(bad, open).await;
        assert_eq!(head.ended.expect("refused").code(), Code::Unauthenticated);
        let mut request = tonic::Request::new(v1::ChangeMembersRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {bad}").parse().expect("ASCII"));
        let reply = alone.client().await.change_members(request).await.expect("it answers").into_inner();
        assert_eq!(reply.failure.expect("refused").code(), Code::Unauthenticated);
    }
    assert!(matches!(alone.single("", increment("/n", 1)).await, Outcome::Counter(_)));
    let (_, session) = alone.new_session_as(&token("ann")).await;
    let list = Operation::ListSessions(v1::ListSessions::default());
    let Outcome::Sessions(page) = alone.single("", list).await else { panic!() };
    assert_eq!((page.sessions[0].session, page.sessions[0].principal.as_str()), (session, "ann"));
}

/// Spec: who may change the ACL of `/` may change the members, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_changed_by_who_may_change_the_acl_of_the_root() {
    let alone = guarded().await;
    let nobody_there = v1::change_members_request::Change::Remove(v1::ReplicaNumbers { replicas: vec![9] });
    let change = async |token: &str| {
        let change = Some(nobody_there.clone());
        let request = v1::ChangeMembersRequest { change, ..v1::ChangeMembersRequest::default() };
        let reply = alone.client().await.change_members(shown(token, request)).await;
        reply.expect("it answers").into_inner().failure.expect("there is no such replica").code()
    };
    assert_eq!(change("").await, Code::NotFound, "nobody is named yet");
    let names = Some(v1::AclNames { change_acl: "ann".into(), ..v1::AclNames::default() });
    let acl = v1::SetAcl { path: "/".to_owned(), names, if_generation: None };
    let outcome = alone.single("", Operation::SetAcl(acl)).await;
    assert!(matches!(outcome, Outcome::AclSet(_)), "{outcome:?}");
    assert_eq!(change("").await, Code::PermissionDenied);
    assert_eq!(change(&token("ben")).await, Code::PermissionDenied);
    assert_eq!(change(&token("ann")).await, Code::NotFound, "she may");
}

/// Spec A-2: a cell without a key knows nobody, and says so rather than take a token for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_tokens_are_refused() {
    let alone = alone().await;
    let outcome = alone.single(&token("ann"), increment("/n", 1)).await;
    assert_eq!(failure(&outcome).0, Code::Unauthenticated);
    assert!(failure(&outcome).1.message.contains("token_key_file"));
}

/// A key that others may read, or that is none, keeps the replica from starting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_key_file_is_refused_at_the_start() {
    for (bytes, mode, why) in [(&KEY[..], 0o644, "chmod 600"), (&KEY[1..], 0o600, "at least 32 random bytes")]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = crate::raw::config_in(folder.path());
        key_file(&mut config, bytes, mode);
        let error = Server::start(config).await.expect_err("it does not start");
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// Spec: reads of every kind, writes, locks, parts of a transaction and its guards are refused to who may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_refused_everywhere() {
    let alone = guarded().await;
    let path = || "/secret/a".to_owned();
    let guard = v1::guard::Guard::Exists(path());
    let part = v1::txn_operation::Operation::Delete(v1::Delete { path: path(), if_generation: None });
    let sequencer = v1::Sequencer { path: path(), instance: 1, generation: 1, shared: false };
    let list = |path: &str| v1::ReadDirectory { path: path.to_owned(), ..v1::ReadDirectory::default() };
    let all = || {
        [
            get("/secret/a"),
            Operation::GetStat(v1::GetStat { path: path() }),
            Operation::GetCounter(v1::GetCounter { path: path() }),
            Operation::ReadDirectory(list("/secret")),
            get("/secret/not-there"),
            Operation::GetQuota(v1::GetQuota { path: "/secret".to_owned() }),
            Operation::CheckSequencer(v1::CheckSequencer { sequencer: Some(sequencer.clone()) }),
            set("/secret/a", 1),
            set("/secret/new", 1),
            delete("/secret/a"),
            Operation::Txn(v1::Txn {
                guards: vec![v1::Guard { guard: Some(guard.clone()) }],
                ..v1::Txn::default()
            }),
            Operation::Txn(v1::Txn {
                then: vec![v1::TxnOperation { operation: Some(part.clone()) }],
                ..v1::Txn::default()
            }),
        ]
    };
    for who in ["", "ben"] {
        let token = if who.is_empty() { String::new() } else { token(who) };
        for what in all() {
            let outcome = alone.single(&token, what.clone()).await;
            assert_eq!(failure(&outcome).0, Code::PermissionDenied, "{who}: {what:?}: {outcome:?}");
        }
        let (mut stream, _) = alone.new_session_as(&token).await;
        for (number, what) in (1..).zip(all()) {
            let refused = stream.refused(number, what.clone()).await;
            assert_eq!(refused.code(), Code::PermissionDenied, "{who}: {what:?}");
        }
        assert_eq!(stream.refused(50, open_file("/secret/a")).await.code(), Code::PermissionDenied);
        assert_eq!(stream.refused(51, open_for_reading("/secret/a")).await.code(), Code::PermissionDenied);
    }
    // Spec L-1: who may only read gets no lock.
    let (mut ben, _) = alone.new_session_as(&token("ben")).await;
    assert_eq!(ben.refused(1, open_file("/shared")).await.code(), Code::PermissionDenied);
    let reading = handle(&ben.done(2, open_for_reading("/shared")).await);
    assert_eq!(ben.refused(3, acquire(reading, true)).await.code(), Code::HandleLacksRight);
    assert!(matches!(ben.done(4, get("/shared")).await, Outcome::Contents(_)));
    // Of a lock that it may not read it is not told.
    let (mut ann, _) = alone.new_session_as(&token("ann")).await;
    for (number, path) in [(1, "/secret/a"), (3, "/shared")] {
        let handle = ann.open(number, path).await;
        ann.done(number + 1, acquire(handle, false)).await;
    }
    let locks = || Operation::ListLocks(v1::ListLocks::default());
    let paths = |outcome| match outcome {
        Outcome::Locks(page) => page.locks.into_iter().map(|lock| lock.path).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(paths(ann.done(9, locks()).await).len(), 2);
    assert_eq!(paths(ben.done(9, locks()).await), ["/shared"]);
    assert!(paths(alone.single("", locks()).await).is_empty());
}

/// Spec A-2, E-4: nobody watches what it may not read, and a subtree's watch does not tell of what is hidden in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_keep_to_what_may_be_read() {
    let alone = guarded().await;
    let (mut ann, _) = alone.new_session_as(&token("ann")).await;
    let (mut ben, _) = alone.new_session_as(&token("ben")).await;
    for stream in [&mut ann, &mut ben] {
        stream.watch(vec![watch(1, "/", 0), watch(2, "/secret", 0), watch(3, "/secret/a", 0)]);
        stream.until(|told| told.watches.len() == 3).await;
    }
    let code = |state: &v1::WatchState| state.failure.as_ref().map(v1::Failure::code);
    assert_eq!(ann.told.watches.iter().map(code).collect::<Vec<_>>(), [None; 3]);
    let denied = Some(Code::PermissionDenied);
    assert_eq!(ben.told.watches.iter().map(code).collect::<Vec<_>>(), [None, denied, denied]);
    alone.single(&token("ann"), set("/secret/a", 3)).await;
    alone.single(&token("ann"), set("/shared", 3)).await;
    ann.until(|told| told.events.len() == 2).await;
    assert_eq!(ann.told.events[0].watches, [1, 2, 3]);
    ben.until(|told| !told.events.is_empty()).await;
    let paths: Vec<_> = ben.told.events.iter().map(|event| event.path.as_str()).collect();
    assert_eq!(paths, ["/shared"]);
}

/// Spec A-2: a session is its opener's, with its secret; its lease is extended for nobody else either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_taken_up_only_by_its_opener() {
    let alone = guarded().await;
    let (ann, _) = alone.new_session_as(&token("ann")).await;
    let wrong = v1::OpenSession { nonce: nonce(), ..ann.open.clone() };
    let cases = [
        (token("ann"), wrong, "the nonce is not the one"),
        (token("ben"), ann.open.clone(), "was not opened by ben"),
        (String::new(), ann.open.clone(), "was not opened by anonymous"),
        // The opening itself, sent by another who knows its nonce.
        (token("ben"), v1::OpenSession { session: 0, ..ann.open.clone() }, "was not opened by ben"),
    ];
    for (token, open, why) in cases {
        let (_, head) = alone.stream_as(&token, open).await;
        let ended = head.ended.expect("refused");
        assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
        assert!(ended.message.contains(why) && ended.message.contains("open another session"), "{ended:?}");
    }
    let short = v1::OpenSession { nonce: vec![1; 3].into(), ..ann.open.clone() };
    let (_, head) = alone.stream_as(&token("ann"), short).await;
    assert_eq!(head.ended.expect("refused").code(), Code::InvalidArgument);
    let (_, head) = alone.stream_as(&token("ann"), ann.open.clone()).await;
    assert!(head.opened.is_some());
}

/// Spec S-2, A-2: trying to take a session up without its secret does not keep it alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_expires_though_others_try_to_take_it_up() {
    let alone = alone().await;
    let open = v1::OpenSession { nonce: nonce(), lease_ms: 1_000, ..v1::OpenSession::default() };
    let (stream, _) = alone.stream(open).await;
    let deadline = tokio::time::Instant::now() + crate::raw::LIMIT;
    loop {
        assert!(tokio::time::Instant::now() < deadline, "it does not expire");
        let wrong = v1::OpenSession { nonce: nonce(), ..stream.open.clone() };
        let (_, head) = alone.stream(wrong).await;
        match head.ended.expect("refused").code() {
            Code::Unauthenticated => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            code => break assert_eq!(code, Code::SessionExpired),
        }
    }
}

/// Spec A-3: what an ACL no longer allows is closed within a lease, and its session is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_acls_closes_handles() {
    let alone = guarded().await;
    let (mut ben, _) = alone.new_session_as(&token("ben")).await;
    let reading = handle(&ben.done(1, open_for_reading("/shared")).await);
    let names = v1::AclNames { read: "ann".into(), write: "ann".into(), change_acl: "ann".into() };
    let acl = v1::SetAcl { path: "/shared".to_owned(), names: Some(names), if_generation: None };
    assert!(matches!(alone.single(&token("ann"), Operation::SetAcl(acl)).await, Outcome::AclSet(_)));
    let asked = tokio::time::Instant::now();
    ben.until(|told| told.handles.iter().any(|told| told.handle == reading && told.place() == Place::Closed))
        .await;
    assert!(asked.elapsed() < std::time::Duration::from_secs(12), "{:?}", asked.elapsed());
    let look = v1::read_on_handle::Verb::Contents(v1::GetContents::default());
    let look = Operation::ReadOnHandle(v1::ReadOnHandle { handle: reading, verb: Some(look) });
    assert_eq!(ben.refused(2, look).await.code(), Code::UnknownHandle);
}
