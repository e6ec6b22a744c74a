//! A run as a page to look at: replicas, leaders, faults and operations over time.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Report;
use super::timeline::{Kind, Note};
use crate::history::{Answer, Operation, Outcome};

const LEFT: f64 = 110.0;
const WIDTH: f64 = 1_200.0;
const LANE: f64 = 34.0;
/// Columns of the histogram of operations.
const COLUMNS: usize = 240;

const STYLE: &str = "body{font:14px system-ui,sans-serif;margin:24px;color:#1d2733;background:#fff}
svg text{font:12px system-ui,sans-serif;fill:#1d2733}
.up{fill:#cfe3d6}.leads{fill:#2f7d4f}.fault{stroke:#c2571a;stroke-width:1}.ops{fill:#4a78b5}.bad{fill:#b3261e}.unknown{fill:#c9a227}
.anomaly{color:#b3261e;font-weight:600;white-space:pre-wrap}table{border-collapse:collapse;margin-top:16px}
td{padding:2px 12px 2px 0;vertical-align:top;border-top:1px solid #e4e8ec}code{background:#eef1f4;padding:2px 6px}";

/// The run as one HTML page that needs nothing else. `command` runs the same again.
pub fn picture(report: &Report, command: &str) -> String {
    let mut page = String::new();
    let title = format!("Storm of seed {}", report.seed);
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1><p><code>{}</code></p><p>{:.1} simulated seconds, {} operations over {} keys, {} undecided.</p>",
        escape(command),
        report.simulated_ms as f64 / 1e3,
        report.operations,
        report.keys,
        report.undecided
    );
    for anomaly in &report.anomalies {
        let _ = write!(page, "<p class=anomaly>{}</p>", escape(anomaly));
    }
    page.push_str(&drawing(report));
    page.push_str("<table>");
    for note in &report.timeline {
        let who = note.replica.map_or(String::new(), |replica| format!("replica {replica}"));
        let _ = write!(
            page,
            "<tr><td>{:.3} s<td>{:?}<td>{who}<td>{}</tr>",
            note.at_ms as f64 / 1e3,
            note.kind,
            escape(&note.what)
        );
    }
    page.push_str("</table></html>");
    page
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn drawing(report: &Report) -> String {
    let replicas = report.timeline.iter().filter_map(|note| note.replica).max().unwrap_or(0);
    let end = report.simulated_ms.max(1) as f64;
    let x = |at_ms: f64| LEFT + at_ms / end * WIDTH;
    let lanes = replicas as f64 * LANE;
    let height = lanes + 3.0 * LANE + 30.0;
    let mut svg = format!("<svg viewBox='0 0 {} {height}' width='100%' role='img'>", LEFT + WIDTH + 20.0);
    for replica in 1..=replicas {
        let top = (replica - 1) as f64 * LANE + 6.0;
        let _ = write!(svg, "<text x=4 y={}>replica {replica}</text>", top + 16.0);
        for (class, from, to, what) in spans(&report.timeline, replica, report.simulated_ms) {
            let _ = write!(
                svg,
                "<rect class={class} x={:.1} y={top} width={:.1} height={}><title>{}</title></rect>",
                x(from as f64),
                (x(to as f64) - x(from as f64)).max(1.0),
                LANE - 10.0,
                escape(&what)
            );
        }
    }
    let _ = write!(svg, "<text x=4 y={}>faults</text>", lanes + 24.0);
    for note in report.timeline.iter().filter(|note| matches!(note.kind, Kind::Fault | Kind::Anomaly)) {
        let at = x(note.at_ms as f64);
        let class = if note.kind == Kind::Anomaly { "bad" } else { "fault" };
        let _ = write!(
            svg,
            "<path class={class} d='M{at:.1} {} v{} l4 -4'><title>{:.3} s {}</title></path>",
            lanes + 6.0,
            LANE - 8.0,
            note.at_ms as f64 / 1e3,
            escape(&note.what)
        );
    }
    histogram(&mut svg, report, lanes + LANE + 10.0);
    let _ = write!(svg, "<text x={LEFT} y={}>0 s</text>", height - 4.0);
    let _ = write!(
        svg,
        "<text x={} y={} text-anchor=end>{:.0} s</text></svg>",
        LEFT + WIDTH,
        height - 4.0,
        end / 1e3
    );
    svg
}

/// When a replica was up, and when it led.
fn spans(notes: &[Note], replica: u64, end_ms: u64) -> Vec<(&'static str, u64, u64, String)> {
    let (mut up, mut led, mut spans) = (None, None, Vec::new());
    for note in notes {
        let ours = note.replica == Some(replica);
        if let Some((from, what)) =
            led.take_if(|_| matches!(note.kind, Kind::Leads) || ours && note.kind == Kind::Ended)
        {
            spans.push(("leads", from, note.at_ms, what));
        }
        match note.kind {
            Kind::Started if ours => up = Some(note.at_ms),
            Kind::Ended if ours => {
                if let Some(from) = up.take() {
                    spans.insert(0, ("up", from, note.at_ms, note.what.clone()));
                }
            }
            Kind::Leads if ours => led = Some((note.at_ms, note.what.clone())),
            _ => {}
        }
    }
    spans.extend(led.map(|(from, what)| ("leads", from, end_ms, what)));
    spans.splice(0..0, up.map(|from| ("up", from, end_ms, "up".to_owned())));
    spans
}

/// How many operations returned when, and how many of those with no answer.
fn histogram(svg: &mut String, report: &Report, top: f64) {
    let mut columns: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    let end = report.simulated_ms.max(1) * 1_000_000;
    for operation in &report.history.operations {
        let at = operation.returned.unwrap_or(operation.invoked).min(end - 1);
        let column = (at as u128 * COLUMNS as u128 / u128::from(end)) as usize;
        let counts = columns.entry(column).or_default();
        if is_answered(operation) { counts.0 += 1 } else { counts.1 += 1 }
    }
    let most = columns.values().map(|(answered, other)| answered + other).max().unwrap_or(1) as f64;
    let _ = write!(svg, "<text x=4 y={}>answers</text>", top + 40.0);
    for (column, (answered, other)) in columns {
        let x = LEFT + column as f64 / COLUMNS as f64 * WIDTH;
        let width = WIDTH / COLUMNS as f64 - 0.5;
        let mut bar = |class: &str, from: u64, count: u64| {
            let height = count as f64 / most * 2.0 * (LANE - 6.0);
            let y = top + 2.0 * (LANE - 6.0) - from as f64 / most * 2.0 * (LANE - 6.0) - height;
            let _ =
                write!(svg, "<rect class={class} x={x:.1} y={y:.1} width={width:.1} height={height:.1} />");
        };
        bar("ops", 0, answered);
        bar("unknown", answered, other);
    }
}

fn is_answered(operation: &Operation) -> bool {
    matches!(&operation.outcome, Outcome::Answered(answer) if !matches!(answer, Answer::Refused(crate::history::Refusal::Unexpected { .. })))
}
