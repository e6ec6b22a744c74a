//! How good each policy is when one instance of ten is slow, fails, or is cold: a simulation, drawn into `docs/pictures`.
//!
//! ```text
//! cargo run --release -p bramah-balance --example quality
//! ```
//!
//! The same code gives the same pictures, to the byte. With a folder as argument they go there.

mod picture;
mod scenarios;
mod simulator;

use std::path::PathBuf;

use scenarios::Row;

fn main() -> std::io::Result<()> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/pictures");
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(default), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    for scenario in scenarios::all() {
        let rows = scenario.run();
        println!("\n{}\n\n{}", scenario.title, table(&rows, scenario.share));
        let path = folder.join(format!("balance-{}.svg", scenario.file));
        std::fs::write(&path, picture::drawing(scenario.title, scenario.share, scenario.fair, &rows))?;
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// As Markdown, latencies in units of the mean service time.
fn table(rows: &[Row], share: &str) -> String {
    let (title, line) = if share.is_empty() { (String::new(), "") } else { (format!(" {share} |"), "---|") };
    let mut table = format!("| policy | p50 | p99 | p99.9 |{title}\n|---|---|---|---|{line}\n");
    for row in rows {
        let of = |number: f64| if row.result.grows { "grows".to_owned() } else { format!("{number:.1}") };
        let [p50, p99, p999] = row.result.latency.map(of);
        table.push_str(&format!("| {} | {p50} | {p99} | {p999} |", row.label));
        if !share.is_empty() {
            table.push_str(&format!(" {:.2} % |", row.result.share * 100.0));
        }
        table.push('\n');
    }
    table
}
