//! A report: one HTML file with its plots inside, which loads nothing.

pub mod plot;

use std::fmt::Write;

use taskbasis::Result;

use self::plot::{Bars, COLOURS, Curve};

const STYLE: &str = "
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #23272c; background: #f6f7f9; margin: 0; }
main { max-width: 860px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 8px 0 4px; }
h2 { font-size: 18px; margin: 0 0 2px; }
p { margin: 4px 0 10px; color: #555c64; }
section { background: #fff; border: 1px solid #e2e5e9; border-radius: 8px; padding: 18px 20px; margin: 18px 0; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.figure { background: #fff; border: 1px solid #e2e5e9; border-radius: 8px; padding: 10px 16px; flex: 1 1 150px; }
.figure b { display: block; font-size: 24px; font-weight: 600; }
.figure span { color: #555c64; font-size: 13px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: #464c54; }
.legend i { display: inline-block; width: 22px; border-top: 3px solid; vertical-align: middle; margin-right: 6px; }
.legend i.dashed { border-top-style: dashed; }
svg { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 14px 3px 0; border-bottom: 1px solid #eceef1; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
table.pairs td { text-align: left; }
td.part { padding-left: 18px; }
th { color: #555c64; font-weight: 600; }
pre { font-size: 12px; overflow-x: auto; }
summary { cursor: pointer; color: #555c64; }
";

/// The page from its beginning to its heading.
pub fn begin(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>taskbasis: {0}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <main>\n<h1>taskbasis: {0}</h1>\n",
        escape(title)
    )
}

/// The page's end, with all figures as JSON.
pub fn end(json: &str) -> String {
    format!(
        "<section><details><summary>Every figure, as --json prints it</summary>\n<pre>{}</pre></details></section>\n\
         </main>\n</body>\n</html>\n",
        escape(json)
    )
}

pub fn section(out: &mut String, title: &str, about: &str, content: &str) {
    let about = if about.is_empty() { String::new() } else { paragraph(about) };
    let _ = write!(out, "<section>\n<h2>{}</h2>\n{about}{content}\n</section>\n", escape(title));
}

pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text.trim_end()))
}

pub fn legend(curves: &[Curve]) -> String {
    let entry = |curve: &Curve| {
        let (r, g, b) = COLOURS[curve.colour % COLOURS.len()];
        let dashed = if curve.dashed { " class=\"dashed\"" } else { "" };
        format!("<span><i{dashed} style=\"border-color: rgb({r},{g},{b})\"></i>{}</span>\n", escape(&curve.name))
    };
    format!("<div class=\"legend\">\n{}</div>\n", curves.iter().map(entry).collect::<String>())
}

/// Bars with their legend.
pub fn bars(y: &'static str, groups: Vec<String>, series: Vec<(String, Vec<f64>)>) -> Result<String> {
    let bars = Bars { y, groups, series };
    let names = bars.series.iter().enumerate().map(|(colour, (name, _))| Curve {
        name: name.clone(),
        points: Vec::new(),
        colour,
        dashed: false,
        marks: false,
    });
    Ok(bars.svg()? + &legend(&names.collect::<Vec<_>>()))
}

/// A table of numbers over colours: blue for what is above 0, orange for what is below, the stronger the nearer it is
/// to `largest`. A row is a name and its numbers; where there is none, a dash.
pub fn heat_table<'a>(
    columns: impl Iterator<Item = &'a str>,
    rows: impl Iterator<Item = (String, Vec<Option<f64>>)>,
    largest: f64,
    show: impl Fn(f64) -> String,
) -> String {
    let mut html = "<div class=\"scroll\"><table>\n<tr><th></th>".to_owned();
    columns.for_each(|name| html += &format!("<th>{}</th>", escape(name)));
    html += "</tr>\n";
    for (name, cells) in rows {
        let _ = write!(html, "<tr><td>{}</td>", escape(&name));
        for cell in cells {
            html += &cell.map_or_else(
                || "<td>—</td>".to_owned(),
                |value| {
                    let (r, g, b) = COLOURS[usize::from(value < 0.0)];
                    let share = 0.8 * value.abs() / largest;
                    format!("<td style=\"background: rgba({r},{g},{b},{share:.3})\">{}</td>", show(value))
                },
            );
        }
        html += "</tr>\n";
    }
    html + "</table></div>\n"
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
