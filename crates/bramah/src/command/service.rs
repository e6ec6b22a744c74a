//! `bramah service`: registering instances for good, looking them up, following and checking them.

use std::sync::Arc;

use bramah_client::discovery::{Change, Health, Registered, Registry, Snapshot, Update};
use bramah_client::{Client, Error};
use serde_json::{Value, json};

use super::child;
use super::connect::{client, long_client};
use super::table;
use crate::cli::{InstanceArgs, ServiceCommand, Shared};
use crate::output::{Exit, Failure, Printer};

/// Does it.
pub async fn run(shared: &Shared, command: ServiceCommand) -> Result<(), Failure> {
    match command {
        ServiceCommand::Register { service, id, address, instance } => {
            register(shared, &service, &id, address, &instance).await
        }
        ServiceCommand::Deregister { service, id } => deregister(shared, &service, &id).await,
        ServiceCommand::Ls => list(shared).await,
        ServiceCommand::Lookup { service, healthy, tag } => {
            lookup(shared, &service, healthy, tag.as_deref()).await
        }
        ServiceCommand::Watch { service, from, count } => watch(shared, &service, from, count).await,
        ServiceCommand::Check { service } => check(shared, &service).await,
    }
}

async fn register(
    shared: &Shared,
    service: &str,
    id: &str,
    address: String,
    args: &InstanceArgs,
) -> Result<(), Failure> {
    let instance = args.at(address);
    instance.validate().map_err(|invalid| Failure::usage(invalid.to_string()))?;
    let client = client(shared).await?;
    let written = client.registry().put(service, id, &instance).await;
    client.close().await;
    let written = written?;
    let text = format!("{service}/{id} is registered at {}", instance.authority());
    let answer = json!({
        "service": service, "id": id, "instance": instance, "revision": written.revision, "created": written.created,
    });
    Printer { json: shared.is_json() }.answer(text, answer)
}

async fn deregister(shared: &Shared, service: &str, id: &str) -> Result<(), Failure> {
    let client = client(shared).await?;
    let was_there = client.registry().deregister(service, id).await;
    client.close().await;
    if !was_there? {
        return Err(not_found(format!(
            "{service} has no instance {id}; `bramah service lookup` shows which it has"
        )));
    }
    let answer = json!({ "service": service, "id": id, "deregistered": true });
    Printer { json: shared.is_json() }.answer(format!("{service}/{id} is deregistered"), answer)
}

fn not_found(message: String) -> Failure {
    Failure { exit: Exit::Refused, code: "not_found".into(), message, next: None }
}

async fn list(shared: &Shared) -> Result<(), Failure> {
    let client = client(shared).await?;
    let read = services(&client.registry()).await;
    client.close().await;
    let (names, snapshot) = read?;
    let mut table = table::new(["service", "instances", "passing", "warning", "critical"]);
    let mut listed = Vec::new();
    for name in names {
        let count = |health| snapshot.instances(&name).filter(|one| one.instance.health == health).count();
        let [passing, warning, critical] = [Health::Passing, Health::Warning, Health::Critical].map(count);
        let instances = passing + warning + critical;
        table.add_row([
            &*name,
            &format!("{instances}"),
            &format!("{passing}"),
            &format!("{warning}"),
            &format!("{critical}"),
        ]);
        listed.push(json!({
            "service": name, "instances": instances, "passing": passing, "warning": warning, "critical": critical,
        }));
    }
    warn_of_invalid(&snapshot);
    let text = if listed.is_empty() { "no services".to_owned() } else { table.trim_fmt() };
    Printer { json: shared.is_json() }.answer(text, json!({ "services": listed }))
}

async fn services(registry: &Registry) -> Result<(Vec<String>, Arc<Snapshot>), Error> {
    Ok((registry.services().await?, registry.lookup_all().await?))
}

/// Files that people wrote and that are no instances: else they would look for them in vain.
fn warn_of_invalid(snapshot: &Snapshot) {
    for ((service, id), reason) in &*snapshot.invalid {
        eprintln!("warning: /services/{service}/{id} is no instance: {reason}");
    }
}

async fn lookup(shared: &Shared, service: &str, healthy: bool, tag: Option<&str>) -> Result<(), Failure> {
    let client = client(shared).await?;
    let snapshot = client.registry().lookup(service).await;
    client.close().await;
    let snapshot = snapshot?;
    warn_of_invalid(&snapshot);
    let wanted = |one: &&Arc<Registered>| {
        (!healthy || one.instance.health.serves())
            && tag.is_none_or(|tag| one.instance.tags.iter().any(|own| own == tag))
    };
    let found: Vec<&Arc<Registered>> = snapshot.instances(service).filter(wanted).collect();
    if found.is_empty() && !shared.is_json() {
        return Err(not_found(format!("{service} has no such instance now")));
    }
    let mut table = table::new(["instance", "address", "health", "weight", "zone", "tags"]);
    for one in &found {
        let instance = &one.instance;
        let zone = instance.zone.clone().unwrap_or_default();
        table.add_row([
            &*one.id,
            &instance.authority(),
            instance.health.name(),
            &instance.weight.to_string(),
            &zone,
            &instance.tags.join(","),
        ]);
    }
    let instances: Vec<Value> = found.iter().map(|one| as_json(one)).collect();
    let answer = json!({ "service": service, "revision": snapshot.revision, "instances": instances });
    Printer { json: shared.is_json() }.answer(table.trim_fmt(), answer)?;
    if found.is_empty() { Err(Failure::said()) } else { Ok(()) }
}

fn as_json(registered: &Registered) -> Value {
    json!({
        "service": registered.service,
        "id": registered.id,
        "instance": registered.instance,
        "revision": registered.revision,
        "permanent": registered.permanent,
    })
}

async fn watch(shared: &Shared, service: &str, from: Option<u64>, count: Option<u64>) -> Result<(), Failure> {
    let client = long_client(shared, "bramah service watch").await?;
    let watching = follow(shared, &client, service, from, count);
    // SIGINT and SIGTERM end it as they should, so that the session does not have to expire.
    let result = child::unless_told(watching).await;
    client.close().await;
    result?.unwrap_or(Ok(()))
}

async fn follow(
    shared: &Shared,
    client: &Client,
    service: &str,
    from: Option<u64>,
    count: Option<u64>,
) -> Result<(), Failure> {
    let registry = client.registry();
    let mut watch = match from {
        Some(revision) => registry.resume(service, revision).await?,
        None => registry.watch(service).await?,
    };
    let mut told = 0;
    while count.is_none_or(|count| told < count) {
        match watch.next().await? {
            Update::Full(snapshot) => tell_all(shared, service, &snapshot)?,
            Update::Delta { revision, changes } => {
                for change in changes.iter().take(count.map_or(usize::MAX, |count| (count - told) as usize)) {
                    tell(shared, revision, change)?;
                    told += 1;
                }
            }
        }
    }
    Ok(())
}

fn tell_all(shared: &Shared, service: &str, snapshot: &Snapshot) -> Result<(), Failure> {
    let revision = snapshot.revision;
    let instances: Vec<Value> = snapshot.instances(service).map(|one| as_json(one)).collect();
    let mut lines = vec![format!("{revision} {service} has {} instances", instances.len())];
    lines.extend(snapshot.instances(service).map(|one| format!("{revision} is {}", shown(one))));
    let answer = json!({ "event": "full", "revision": revision, "service": service, "instances": instances });
    Printer { json: shared.is_json() }.answer(lines.join("\n"), answer)
}

fn tell(shared: &Shared, revision: u64, change: &Change) -> Result<(), Failure> {
    let (text, answer) = match change {
        Change::Put(one) => {
            let mut answer = as_json(one);
            answer["event"] = json!("put");
            (format!("{revision} put {}", shown(one)), answer)
        }
        Change::Removed { service, id } => {
            let answer = json!({ "event": "removed", "revision": revision, "service": service, "id": id });
            (format!("{revision} removed {service}/{id}"), answer)
        }
    };
    Printer { json: shared.is_json() }.answer(text, answer)
}

fn shown(one: &Registered) -> String {
    let Registered { service, id, instance, .. } = one;
    let weight = if instance.weight == 1 { String::new() } else { format!(", weight {}", instance.weight) };
    format!("{service}/{id} at {}, {}{weight}", instance.authority(), instance.health)
}

async fn check(shared: &Shared, service: &str) -> Result<(), Failure> {
    let client = long_client(shared, "bramah service check").await?;
    let registry = client.registry();
    let result = child::unless_told(registry.check_all(service)).await;
    client.close().await;
    Ok(result?.unwrap_or(Ok(()))?)
}
