//! Cost against size as a picture: `docs/cost.svg`.
//!
//! Both axes are logarithmic. A line that is flat costs the same whatever the size; one that climbs with the dashed
//! line grows as the environment does.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

use crate::gauge::Figures;
use crate::scale::SIZES;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 50.0;
/// The vertical axis, in powers of ten: 0.1 ms (or MiB) to 100 000.
const LOWEST: f64 = -1.0;
const HIGHEST: f64 = 5.0;

/// What is drawn: the figure, what it is called, how many milliseconds (or MiB) one of its units is, its colour.
const LINES: [(&str, &str, f64, &str); 6] = [
    ("first_apply_s", "first apply, ms", 1000.0, "#8a5a00"),
    ("restart_s", "restart, in sync, ms", 1000.0, "#7a3e9d"),
    ("rss_mib", "memory, MiB", 1.0, "#5f6b7a"),
    ("change_ms", "one object changed, ms", 1.0, "#1f6fb2"),
    ("drift_p95_ms", "drift mended (p95), ms", 1.0, "#0f7d5a"),
    ("pass_cpu_ms", "CPU, nothing to do, ms", 1.0, "#b23a48"),
];

/// Draws the picture from the figures of the section `scale`.
pub fn draw(figures: &Figures) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cost.svg");
    Ok(std::fs::write(path, svg(figures)?)?)
}

fn svg(figures: &Figures) -> Result<String> {
    let (first, last) = ((SIZES[0] as f64).log10(), (SIZES[SIZES.len() - 1] as f64).log10());
    let x = |size: f64| LEFT + (size.log10() - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let at = value.max(10f64.powf(LOWEST)).log10();
        HEIGHT - BOTTOM - (at - LOWEST) / (HIGHEST - LOWEST) * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"What an environment costs by its size\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" fill=\"#1c2733\">What an environment costs, by its number of objects</text>\n"
    );
    for power in LOWEST as i32..=HIGHEST as i32 {
        let at = y(10f64.powi(power));
        let label = if power < 0 { "0.1".to_owned() } else { 10u64.pow(power as u32).to_string() };
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e3e7ec\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#5f6b7a\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
        )?;
    }
    for size in SIZES {
        writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#5f6b7a\">{size}</text>",
            x(size as f64),
            HEIGHT - BOTTOM + 20.0
        )?;
    }
    let (from, to) = (SIZES[0] as f64, SIZES[SIZES.len() - 1] as f64);
    writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#9aa5b1\" stroke-dasharray=\"4 4\"/>\
         <text x=\"{:.0}\" y=\"{:.0}\" fill=\"#5f6b7a\">dashed: grows as the environment does</text>",
        x(from),
        y(0.2),
        x(to),
        y(0.2 * to / from),
        LEFT,
        HEIGHT - 8.0,
    )?;
    let mut labels: Vec<(f64, &str, &str)> = Vec::new();
    for (figure, label, unit, colour) in LINES {
        let points = SIZES.iter().filter_map(|size| {
            let value = figures.get(&format!("{size}: {figure}"))? * unit;
            Some(format!("{:.1},{:.1}", x(*size as f64), y(value)))
        });
        let points: Vec<String> = points.collect();
        anyhow::ensure!(points.len() == SIZES.len(), "{figure} was not measured for every size");
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        )?;
        let last = figures[&format!("{}: {figure}", SIZES[SIZES.len() - 1])] * unit;
        labels.push((y(last), label, colour));
    }
    labels.sort_by(|first, second| first.0.total_cmp(&second.0));
    let mut lowest = f64::MIN;
    for (wanted, label, colour) in labels {
        // Two lines that end at one height get two lines of text.
        let at = wanted.max(lowest + 15.0);
        lowest = at;
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" fill=\"{colour}\">{label}</text>",
            WIDTH - RIGHT + 10.0,
            at + 4.0
        )?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}
