//! Which cell this is. A new cell's number is made from its name and first list of members; from then on each data
//! folder keeps it, so addresses and members may change. A replica that comes later asks a member for it.

use std::sync::Arc;
use std::time::Duration;

use bramah_wire::v1::IntroduceRequest;
use bramah_wire::v1::introduce_reply::Standing;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::cell::World;
use crate::config::CellConfig;
use crate::data_folder::{DataFolder, Entrance, FolderError, Owner};
use crate::disk;
use crate::error::StartError;
use crate::peers;

/// How long a replica that joins, or is replaced, looks for a member of its cell.
const JOIN_LIMIT: Duration = Duration::from_secs(30);

/// How long a member may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(200);

/// Whose the data folder is or becomes, and what an empty one is begun as.
pub(crate) async fn identify(
    config: &CellConfig,
    world: &World,
) -> Result<(Owner, Option<Entrance>), StartError> {
    let owner = |cell_id| Owner { cell: config.cell.clone(), cell_id, replica: config.replica };
    if let Some(found) = stored(config, world).await? {
        let replaced = config.replace.then_some(Entrance::Replacing);
        return Ok((owner(found.cell_id), replaced));
    }
    if config.replace {
        // Not from the list of members: it may have changed since the cell was new, and a wrong number would stay.
        let learned = learn(config, world, JOIN_LIMIT, false).await?;
        return Ok((owner(learned.ok_or_else(|| nobody(config))?), Some(Entrance::Replacing)));
    }
    if !config.join.is_empty() {
        let learned = learn(config, world, JOIN_LIMIT, true).await?;
        return Ok((owner(learned.ok_or_else(|| nobody(config))?), Some(Entrance::Joining)));
    }
    if !config.bootstrap {
        return Err(StartError::NotBootstrapped(config.data.display().to_string()));
    }
    // If the cell lives, its number may be another one than that of the present list of members.
    match living(config, world).await? {
        Some(cell_id) => Ok((owner(cell_id), Some(Entrance::Replacing))),
        None => Ok((owner(config.cell_id()), Some(Entrance::Founding))),
    }
}

/// The number of the cell if another member says that it has lived already. Those that don't answer now are asked again
/// before the cell is founded.
async fn living(config: &CellConfig, world: &World) -> Result<Option<u64>, StartError> {
    let others = config.members.iter().filter(|(id, _)| *id != config.replica);
    let answers = join_all(others.map(|(_, member)| ask(config, world, &member.peer_address))).await;
    let Some(reply) = answers.into_iter().flatten().find(|reply| !reply.new && !reply.knows_nothing) else {
        return Ok(None);
    };
    if reply.standing() == Standing::Removed {
        return Err(StartError::RemovedReplica { replica: config.replica });
    }
    tracing::warn!("the cell lives already: this replica is taken in like one that lost its data");
    Ok(Some(reply.cell_id))
}

fn nobody(config: &CellConfig) -> StartError {
    let others = config.members.iter().filter(|(id, _)| *id != config.replica);
    let asked: Vec<&str> = others
        .map(|(_, member)| member.peer_address.as_str())
        .chain(config.join.iter().map(String::as_str))
        .collect();
    StartError::NobodyToJoin { asked: asked.join(", "), waited: JOIN_LIMIT }
}

async fn stored(config: &CellConfig, world: &World) -> Result<Option<Owner>, StartError> {
    let (shared, path) = (Arc::clone(&world.disk), config.data.clone());
    let read = disk::run(&world.disk, move || Ok(DataFolder::owner_of(&*shared, &path)));
    let found = read.await.map_err(|error| StartError::Engine(error.to_string()))?;
    Ok(found.map_err(|error: FolderError| error)?)
}

/// Asks the others which cell they belong to, until one says so or the time is over.
async fn learn(
    config: &CellConfig,
    world: &World,
    limit: Duration,
    joins: bool,
) -> Result<Option<u64>, StartError> {
    let others = config.members.iter().filter(|(id, _)| *id != config.replica);
    let addresses: Vec<&String> =
        others.map(|(_, member)| &member.peer_address).chain(&config.join).collect();
    let until = Instant::now() + limit;
    loop {
        for address in &addresses {
            let Ok(reply) = ask(config, world, address).await else { continue };
            match reply.standing() {
                Standing::Removed => return Err(StartError::RemovedReplica { replica: config.replica }),
                Standing::Voter if joins => return Err(StartError::AlreadyVotes { replica: config.replica }),
                _ => return Ok(Some(reply.cell_id)),
            }
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        sleep(PAUSE).await;
    }
}

async fn ask(
    config: &CellConfig,
    world: &World,
    address: &str,
) -> Result<bramah_wire::v1::IntroduceReply, tonic::Status> {
    let request = IntroduceRequest {
        cell: config.cell.clone(),
        replica: config.replica,
        ..IntroduceRequest::default()
    };
    let mut client = peers::client(&world.transport, address)?;
    let answer = timeout(ANSWER_LIMIT, client.introduce(request)).await;
    let answer = answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
    answer.map(tonic::Response::into_inner).inspect_err(|status| {
        tracing::info!(address, status = status.message(), "no member of the cell answers there");
    })
}
