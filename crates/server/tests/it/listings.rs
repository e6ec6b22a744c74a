//! Directories, page by page.

use bramah_wire::v1;
use bramah_wire::v1::failure::Code;
use bramah_wire::v1::operation::Operation;
use bramah_wire::v1::outcome::Outcome;

use crate::raw::{Alone, alone, delete, failure, handle, open_for_reading, set};

fn list(path: &str, after: &str, at_revision: u64) -> v1::ReadDirectory {
    v1::ReadDirectory { path: path.to_owned(), after: after.to_owned(), limit: 10, at_revision }
}

async fn page(alone: &Alone, after: &str, at_revision: u64) -> v1::DirectoryPage {
    match alone.single("", Operation::ReadDirectory(list("/d", after, at_revision))).await {
        Outcome::Directory(page) => page,
        other => panic!("{other:?}"),
    }
}

async fn directory_of_25(alone: &Alone) {
    let make = v1::CreateDirectory { path: "/d".to_owned(), parents: false };
    alone.single("", Operation::CreateDirectory(make)).await;
    for i in 0..25 {
        alone.single("", set(&format!("/d/file-{i:02}"), 1)).await;
    }
}

/// Spec N-7: all pages show the revision of the first, whatever is changed between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_one_listing_show_one_moment() {
    let alone = alone().await;
    directory_of_25(&alone).await;
    let first = page(&alone, "", 0).await;
    let (mut names, revision) = (Vec::new(), first.revision);
    assert!(revision > 0 && first.more);
    let mut next = first;
    let mut changes = 0;
    loop {
        assert!(next.entries.iter().all(|entry| entry.stat.as_ref().is_some_and(|stat| stat.length == 1)));
        names.extend(next.entries.into_iter().map(|entry| entry.name));
        if !next.more {
            break;
        }
        for i in 0..25 {
            let path = format!("/d/file-{i:02}");
            changes += 1;
            match (i + changes) % 3 {
                0 => alone.single("", delete(&path)).await,
                1 => alone.single("", set(&path, 7)).await,
                _ => alone.single("", set(&format!("{path}-new"), 7)).await,
            };
        }
        next = page(&alone, names.last().expect("it has entries"), revision).await;
        assert_eq!(next.revision, revision);
    }
    assert_eq!(names, (0..25).map(|i| format!("file-{i:02}")).collect::<Vec<_>>());
    assert_ne!(page(&alone, "", 0).await.revision, revision, "another listing shows what is there now");
}

/// Spec N-7: a revision that is not kept is refused, and says to begin again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_a_revision_that_is_gone_is_refused() {
    let alone = alone().await;
    directory_of_25(&alone).await;
    let first = page(&alone, "", 0).await;
    alone.single("", set("/d/another", 1)).await;
    for never in [1, first.revision - 1, first.revision + 7, u64::MAX] {
        let outcome = alone.single("", Operation::ReadDirectory(list("/d", "file-09", never))).await;
        assert_eq!(failure(&outcome).0, Code::RevisionGone);
        assert!(failure(&outcome).1.message.contains("begin the listing again"));
    }
    assert_eq!(page(&alone, "file-09", first.revision).await.entries[0].name, "file-10");
}

/// Spec N-7, H-3: the same through a handle, whose directory must be the one that was listed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_goes_through_a_handle() {
    let alone = alone().await;
    directory_of_25(&alone).await;
    let (mut stream, _) = alone.new_session().await;
    let handle = handle(&stream.done(1, open_for_reading("/d")).await);
    let list = |after: &str, at_revision| {
        let verb = v1::read_on_handle::Verb::Directory(list("", after, at_revision));
        Operation::ReadOnHandle(v1::ReadOnHandle { handle, verb: Some(verb) })
    };
    let Outcome::Directory(first) = stream.done(2, list("", 0)).await else { panic!() };
    alone.single("", delete("/d/file-10")).await;
    let Outcome::Directory(second) = stream.done(3, list("file-09", first.revision)).await else { panic!() };
    assert_eq!((second.entries[0].name.as_str(), second.revision), ("file-10", first.revision));
    let tree = v1::DeleteTree { path: "/d".to_owned() };
    alone.single("", Operation::DeleteTree(tree)).await;
    assert_eq!(stream.refused(4, list("file-19", first.revision)).await.code(), Code::NodeDeleted);
}
