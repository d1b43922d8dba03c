//! The picture: this mesh and its peers as shares of HAProxy, one group of bars for each measure. Pure.

use std::fmt::Write as _;

use super::{
    figures::{RATIOS, ratios},
    report::Outcome,
};

/// What is shown, and what it is called: less is better, then more is better.
const SHOWN: [(&str, &str); 9] = [
    ("h1_100b_cpu", "CPU per request, HTTP/1.1 100 B (less is better)"),
    ("lat_p50", "p50 added at 1,000 requests/s (less is better)"),
    ("lat_p99", "p99 added at 1,000 requests/s (less is better)"),
    ("h1_100b_rps", "requests/s, HTTP/1.1 100 B"),
    ("h1_10k_rps", "requests/s, HTTP/1.1 10 KB"),
    ("h2_rps", "requests/s, HTTP/2"),
    ("tcp_bulk", "MB/s, one TCP connection"),
    ("tcp_conn", "new TCP connections/s"),
    ("handshakes", "full handshakes/s"),
];
const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 16.0;
const TITLE: f64 = 22.0;
const GAP: f64 = 12.0;
/// Bars longer than this are cut, and say so.
const LONGEST: f64 = 4.0;

/// An SVG of an outcome.
#[must_use]
pub fn svg(outcome: &Outcome) -> String {
    let (mut body, mut y) = (String::new(), 10.0);
    let unit = (WIDTH - LEFT - RIGHT) / LONGEST;
    for (name, title) in SHOWN {
        let Some(ratio) = RATIOS.iter().find(|ratio| ratio.name == name) else { continue };
        let all = ratios(&outcome.samples, ratio);
        if all.is_empty() {
            continue;
        }
        let _ = writeln!(body, "<text class=\"title\" x=\"10\" y=\"{:.0}\">{title}</text>", y + 14.0);
        y += TITLE;
        let top = y;
        for (chain, label, _) in &outcome.versions {
            let Some(figure) = all.get(chain) else { continue };
            let cut = figure.median > LONGEST;
            let long = figure.median.clamp(0.0, LONGEST) * unit;
            let class = if chain == "mesh" { "own" } else { "peer" };
            let _ = writeln!(
                body,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{label}</text>\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{:.0}\" width=\"{long:.1}\" height=\"{:.0}\" rx=\"2\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{:.2}{}</text>",
                LEFT - 8.0,
                y + 12.0,
                y + 2.0,
                BAR - 4.0,
                LEFT + long + 6.0,
                y + 12.0,
                figure.median,
                if cut { " →" } else { "" },
            );
            y += BAR;
        }
        let one = LEFT + unit;
        let _ = writeln!(body, "<line x1=\"{one:.1}\" y1=\"{top:.0}\" x2=\"{one:.1}\" y2=\"{y:.0}\"/>");
        y += GAP;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<style>text{{fill:#57606a}}.title{{font-weight:bold}}.own{{fill:#1f6feb}}\
         .peer{{fill:#afb8c1}}line{{stroke:#57606a;stroke-dasharray:3 3}}\
         @media(prefers-color-scheme:dark){{text{{fill:#c9d1d9}}.peer{{fill:#6e7681}}line{{stroke:#c9d1d9}}}}</style>\n\
         <title>Shares of HAProxy, the dashed line</title>\n{body}</svg>\n"
    )
}
