//! A picture of results: bars of latencies on a logarithmic scale, and of shares beside them.

use std::fmt::Write;

use crate::scenarios::Row;

const LEFT: f64 = 250.0;
const BARS: f64 = 420.0;
const SHARES: f64 = 740.0;
const SHARE_BARS: f64 = 130.0;
const TOP: f64 = 66.0;
const LANE: f64 = 44.0;
const WIDTH: f64 = 940.0;
/// The scale ends at a thousand mean service times.
const DECADES: f64 = 3.0;
const COLOURS: [(&str, &str); 3] = [("p50", "#9dbbe0"), ("p99", "#4a78b5"), ("p99.9", "#1f3f6b")];

pub(crate) fn drawing(title: &str, share: &str, fair: f64, rows: &[Row]) -> String {
    let bottom = TOP + rows.len() as f64 * LANE;
    let height = bottom + 30.0;
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' font-family='system-ui,sans-serif' \
         font-size='13'><rect width='{WIDTH}' height='{height}' fill='#fff'/>\
         <text x='16' y='24' font-size='15'>{title}</text>\n"
    );
    legend(&mut svg, share);
    scale(&mut svg, bottom);
    let most = rows.iter().map(|row| row.result.share).fold(fair, f64::max).max(1e-9);
    for (row, lane) in rows.iter().zip(0_u32..) {
        let top = TOP + f64::from(lane) * LANE;
        let _ = writeln!(
            svg,
            "<text x='{}' y='{}' text-anchor='end'>{}</text>",
            LEFT - 10.0,
            top + 22.0,
            row.label
        );
        latencies(&mut svg, row, top);
        if fair > 0.0 {
            shares(&mut svg, row, top, most);
        }
    }
    if fair > 0.0 {
        let at = SHARES + fair / most * SHARE_BARS;
        let _ = writeln!(
            svg,
            "<path d='M{at:.1} {TOP}V{bottom}' stroke='#b3261e' stroke-dasharray='3 3'/>\
             <text x='{at:.1}' y='{}' fill='#b3261e' text-anchor='middle'>{:.0} %: a fair share</text>",
            bottom + 16.0,
            fair * 100.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, share: &str) {
    for ((name, colour), place) in COLOURS.iter().zip(0_u32..) {
        let x = LEFT + f64::from(place) * 70.0;
        let _ = write!(
            svg,
            "<rect x='{x}' y='38' width='12' height='12' fill='{colour}'/><text x='{}' y='49'>{name}</text>",
            x + 17.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x='{}' y='49'>in mean service times</text><text x='{SHARES}' y='49'>{share}</text>",
        LEFT + 210.0
    );
}

fn scale(svg: &mut String, bottom: f64) {
    for label in ["1", "10", "100", "1,000"].iter().zip(0_u32..) {
        let x = LEFT + f64::from(label.1) / DECADES * BARS;
        let _ = writeln!(
            svg,
            "<path d='M{x:.1} {TOP}V{bottom}' stroke='#d8dee4'/>\
             <text x='{x:.1}' y='{}' text-anchor='middle' fill='#5a6672'>{}</text>",
            bottom + 16.0,
            label.0
        );
    }
}

fn latencies(svg: &mut String, row: &Row, top: f64) {
    for ((latency, (_, colour)), place) in row.result.latency.iter().zip(COLOURS).zip(0_u32..) {
        let y = top + 4.0 + f64::from(place) * 12.0;
        let (width, text) = if row.result.grows {
            (BARS, "grows".to_owned())
        } else {
            ((latency.log10() / DECADES).clamp(0.0, 1.0) * BARS, format!("{latency:.1}"))
        };
        let _ = writeln!(
            svg,
            "<rect x='{LEFT}' y='{y}' width='{:.1}' height='10' fill='{colour}'/>\
             <text x='{:.1}' y='{}' font-size='10'>{text}</text>",
            width.max(1.0),
            LEFT + width.max(1.0) + 4.0,
            y + 9.0
        );
    }
}

fn shares(svg: &mut String, row: &Row, top: f64, most: f64) {
    let width = row.result.share / most * SHARE_BARS;
    let _ = writeln!(
        svg,
        "<rect x='{SHARES}' y='{}' width='{:.1}' height='16' fill='#c2571a'/>\
         <text x='{:.1}' y='{}' font-size='11'>{:.2} %</text>",
        top + 12.0,
        width.max(0.5),
        SHARES + width.max(0.5) + 4.0,
        top + 24.0,
        row.result.share * 100.0
    );
}
