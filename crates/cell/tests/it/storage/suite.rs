//! openraft's own tests of a store, over this log and these snapshots.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bramah_cell::consensus::TypeConfig;
use bramah_cell::disk::RealDisk;
use bramah_cell::log::Log;
use bramah_cell::snapshot_store::{SnapshotFile, SnapshotStore};
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, StorageError};
use tempfile::TempDir;

use super::{IDENTITY, open, small};

type Meta = SnapshotMetaOf<TypeConfig>;

/// A state machine that knows nothing but how far it is.
struct Machine {
    applied: Meta,
    snapshots: SnapshotStore,
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<TypeConfig>>, StoredMembershipOf<TypeConfig>)> {
        Ok((self.applied.last_log_id, self.applied.last_membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied.last_log_id = Some(entry.log_id);
            if let EntryPayload::Membership(members) = entry.payload {
                self.applied.last_membership =
                    StoredMembershipOf::<TypeConfig>::new(Some(entry.log_id), members);
            }
            if let Some(responder) = responder {
                responder.send(Vec::new());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { meta: self.applied.clone(), snapshots: self.snapshots.clone() }
    }

    /// Through the same door as a snapshot from another replica.
    async fn install_snapshot(&mut self, meta: &Meta, snapshot: SnapshotFile) -> io::Result<()> {
        let mut receiving = self.snapshots.receive(meta.clone(), snapshot.length(), snapshot.checksum())?;
        while receiving.offset() < snapshot.length() {
            receiving.append(&snapshot.read_at(receiving.offset(), 100)?)?;
        }
        let received = receiving.finish()?;
        let mut text = String::new();
        received.body()?.read_to_string(&mut text)?;
        assert_eq!(text, "state");
        self.snapshots.adopt(&received)?;
        self.applied = meta.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        let newest = self.snapshots.newest();
        Ok(newest.map(|file| SnapshotOf::<TypeConfig, _> { meta: file.meta().clone(), snapshot: file }))
    }
}

struct Builder {
    meta: Meta,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, SnapshotFile>> {
        let file = self.snapshots.write(self.meta.clone(), |body| body.write_all(b"state"))?;
        Ok(SnapshotOf::<TypeConfig, _> { meta: file.meta().clone(), snapshot: file })
    }
}

struct Folders;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Folders {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk: Arc<dyn bramah_cell::disk::Disk> = Arc::new(RealDisk);
        let log = open(&disk, &folder.path().join("log"), &small()).expect("a log");
        let snapshots = SnapshotStore::open(disk, &folder.path().join("snapshots"), IDENTITY);
        let machine = Machine { applied: Meta::default(), snapshots: snapshots.expect("snapshots") };
        Ok((folder, log, machine))
    }
}

/// Spec G-1, G-5: the contract of openraft's store, as openraft tests it.
#[test]
fn openraft_suite() {
    super::block_on(Suite::test_all(Folders)).expect("the suite");
}
