//! `bramah counter incr|get|reset`.

use bramah_client::IncrementOptions;
use serde_json::json;

use super::connect::client;
use crate::cli::{CounterCommand, Shared};
use crate::output::{Failure, Printer};

/// Does it and prints the counter's value.
pub async fn run(shared: &Shared, command: CounterCommand) -> Result<(), Failure> {
    let client = client(shared).await?;
    let result = match &command {
        CounterCommand::Incr { path, delta, floor, ceiling, no_create } => {
            let options = IncrementOptions { create: !no_create, floor: *floor, ceiling: *ceiling };
            client.counter(path).add(*delta, options).await
        }
        CounterCommand::Get(args) => client.counter(&args.path).get().await,
        CounterCommand::Reset { path, value, expect: None } => client.counter(path).reset(*value).await,
        CounterCommand::Reset { path, value, expect: Some(expected) } => {
            client.counter(path).compare_and_reset(*expected, *value).await
        }
    };
    client.close().await;
    let value = result?;
    let path = match command {
        CounterCommand::Incr { path, .. } | CounterCommand::Reset { path, .. } => path,
        CounterCommand::Get(args) => args.path,
    };
    Printer { json: shared.is_json() }.answer(value.to_string(), json!({ "path": path, "value": value }))
}
