//! How long nobody is served when a leader crashes: the distribution over many simulated crashes, as a picture.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::one;

/// Crashes in one process.
const CRASHES_A_SEED: u64 = 100;
/// Where the picture goes.
const PICTURE: &str = "docs/pictures/failover.svg";
/// Width of a column in milliseconds.
const COLUMN_MS: f64 = 25.0;

/// Crashes so many leaders and draws how long each fail-over took. The replicas are side by side unless `arguments`
/// say otherwise: far apart they have other time limits.
pub(super) fn run(
    root: &Path,
    program: &Path,
    crashes: u64,
    jobs: usize,
    json: bool,
    arguments: &[String],
) -> Result<ExitCode> {
    let count = ["--leader-crashes", &CRASHES_A_SEED.to_string(), "--far-apart", "0"].map(str::to_owned);
    let arguments = [&count, arguments].concat();
    let seeds = crashes.div_ceil(CRASHES_A_SEED);
    let (next, taken) = (AtomicU64::new(1), Mutex::new((Vec::new(), Vec::new())));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        return;
                    }
                    let came = one(program, seed, &arguments);
                    let Ok(mut taken) = taken.lock() else { return };
                    match came {
                        Ok(report) if report["anomalies"].as_array().is_some_and(Vec::is_empty) => {
                            let times = report["failovers_us"].as_array().into_iter().flatten();
                            taken.0.extend(times.filter_map(|time| Some(time.as_u64()? as f64 / 1e3)));
                        }
                        came => taken.1.push(format!("seed {seed}: {came:?}")),
                    }
                    eprintln!("xtask: {} fail-overs", taken.0.len());
                }
            });
        }
    });
    let (mut times, failures) = taken.into_inner().unwrap_or_default();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part) as usize).copied().unwrap_or(0.0);
    let (median, p99, longest) = (at(0.5), at(0.99), at(1.0));
    println!("{} fail-overs: median {median:.0} ms, p99 {p99:.0} ms, longest {longest:.0} ms", times.len());
    let path = root.join(PICTURE);
    fs::create_dir_all(path.parent().unwrap_or(root))?;
    fs::write(&path, picture(&times, median, p99)).with_context(|| path.display().to_string())?;
    println!("drawn in {PICTURE}");
    if json {
        println!(
            "{}",
            json!({ "crashes": times.len(), "median_ms": median, "p99_ms": p99, "longest_ms": longest })
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn picture(times: &[f64], median: f64, p99: f64) -> String {
    let (left, top, width, height) = (60.0, 40.0, 800.0, 240.0);
    let end = (times.last().copied().unwrap_or(1.0).min(p99 * 1.6) / COLUMN_MS).ceil() * COLUMN_MS;
    let columns = (end / COLUMN_MS) as usize;
    let mut counts = vec![0_u64; columns.max(1)];
    for time in times {
        let column = ((time / COLUMN_MS) as usize).min(counts.len() - 1);
        counts[column] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
    let x = |ms: f64| left + ms / end * width;
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 900 340' font-family='system-ui,sans-serif' font-size='13'>\
         <rect width='900' height='340' fill='#fff'/>\
         <text x='{left}' y='22' font-size='15'>Time until somebody is served after the leader crashed: {} simulated crashes</text>\n",
        times.len()
    );
    for (column, count) in counts.iter().enumerate() {
        let tall = *count as f64 / most * height;
        let _ = writeln!(
            svg,
            "<rect x='{:.1}' y='{:.1}' width='{:.1}' height='{tall:.1}' fill='#4a78b5'/>",
            x(column as f64 * COLUMN_MS),
            top + height - tall,
            width / columns as f64 - 1.0
        );
    }
    for (name, ms) in [("median", median), ("p99", p99)] {
        let _ = writeln!(
            svg,
            "<path d='M{0:.1} {top} V{1}' stroke='#b3261e'/><text x='{2:.1}' y='{3}' fill='#b3261e'>{name} {ms:.0} ms</text>",
            x(ms),
            top + height,
            x(ms) + 5.0,
            top + 14.0
        );
    }
    for step in 0..=4 {
        let ms = end * f64::from(step) / 4.0;
        let _ = writeln!(
            svg,
            "<text x='{:.1}' y='{}' text-anchor='middle'>{ms:.0} ms</text>",
            x(ms),
            top + height + 22.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}
