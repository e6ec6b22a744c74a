//! `bramah txn`: several things in one step, if all guards hold.

mod language;

use bramah_client::{Guard, InvalidSequencer, TxnOp};
use serde_json::json;

use super::connect::client;
use crate::cli::{Shared, TxnArgs};
use crate::output::{Failure, Printer};
use language::Operation;

/// Does it. Nothing is sent unless all of it can be read.
pub async fn run(shared: &Shared, args: TxnArgs) -> Result<(), Failure> {
    let guards = read_all(&args.guards, language::guard)?;
    let guards = guards.into_iter().map(guard).collect::<Result<Vec<_>, _>>()?;
    let then = read_all(&args.then, language::operation)?.into_iter().map(operation);
    let otherwise = read_all(&args.otherwise, language::operation)?.into_iter().map(operation);
    let client = client(shared).await?;
    let done = client.txn().when(guards).then(then).otherwise(otherwise).commit().await;
    client.close().await;
    let done = done?;
    let printer = Printer { json: shared.is_json() };
    let value = json!({ "held": done.held, "operations": done.outcomes });
    match (done.held, args.otherwise.is_empty()) {
        (true, _) => printer.answer("done: the guards held", value),
        (false, true) => Err(not_held("not done: a guard does not hold", shared, value)),
        (false, false) => Err(not_held("a guard does not hold: what --else says was done", shared, value)),
    }
}

fn read_all<T>(texts: &[String], read: fn(&str) -> Result<T, String>) -> Result<Vec<T>, Failure> {
    texts.iter().map(|text| read(text)).collect::<Result<_, _>>().map_err(Failure::usage)
}

/// It is an answer, and yet the exit code tells it from the other.
fn not_held(text: &str, shared: &Shared, value: serde_json::Value) -> Failure {
    let printed = Printer { json: shared.is_json() }.answer(text, value);
    printed.err().unwrap_or_else(Failure::said)
}

fn guard(guard: language::Guard) -> Result<Guard, Failure> {
    Ok(match guard {
        language::Guard::Exists(path) => Guard::exists(path),
        language::Guard::Absent(path) => Guard::absent(path),
        language::Guard::Generation(path, generation) => Guard::generation(path, generation),
        language::Guard::Counter(path, comparison, value) => Guard::counter(path, comparison, value),
        language::Guard::Held(sequencer) => {
            let sequencer = sequencer.parse();
            Guard::held(&sequencer.map_err(|error: InvalidSequencer| Failure::usage(error.to_string()))?)
        }
    })
}

fn operation(operation: Operation) -> TxnOp {
    match operation {
        Operation::Set(path, contents) => TxnOp::set(path, contents),
        Operation::MakeDirectory(path) => TxnOp::mkdir(path),
        Operation::Remove(path) => TxnOp::delete(path),
        Operation::RemoveTree(path) => TxnOp::delete_tree(path),
        Operation::Increment(path, delta) => TxnOp::increment(path, delta),
        Operation::Reset(path, value) => TxnOp::reset_counter(path, value),
    }
}
