//! The analysis as one page: which method, how many vectors, which format.

use std::fmt::Write;

use serde_json::Value;
use taskbasis::Result;
use taskbasis::build::Gram;

use super::choices::{Choice, knee};
use super::summary::{OF_BLOCKS, blocks, kept};
use crate::output;
use crate::report::plot::{COLOURS, Curve, Lines};
use crate::report::{begin, end, heat_table, legend, paragraph, section};

/// The content of a page.
pub(super) struct Page<'a> {
    pub(super) gram: &'a Gram,
    pub(super) choices: &'a [Choice],
    pub(super) json: &'a Value,
}

impl Page<'_> {
    pub(super) fn html(&self) -> Result<String> {
        let mut out = begin("what the task vectors have in common");
        let tasks = self.gram.tasks();
        out += &paragraph(&format!("{}: {}.", output::counted(tasks.len(), "task"), tasks.join(", ")));
        for doubt in self.gram.doubts() {
            out += &paragraph(&format!("Doubtful: {doubt}"));
        }
        if !self.choices.is_empty() {
            self.costs(&mut out)?;
        }
        self.spectrum(&mut out)?;
        let about = "Cosines of the angles between task vectors: near 0 they do not disturb each other when they are \
            added, near 1 they are nearly one.";
        section(&mut out, "Cosine similarities", about, &self.cosines());
        let about = "How much of the task vectors lies in each block, and how alike they are there.";
        section(&mut out, "By block", about, &self.blocks());
        Ok(out + &end(&format!("{:#}", self.json)))
    }

    /// Error against bytes, a line for each method and format, with the knee marked.
    fn costs(&self, out: &mut String) -> Result<()> {
        let mut curves: Vec<Curve> = Vec::new();
        for choice in self.choices {
            let name = format!("{}, {}", choice.method, choice.format);
            let point = (choice.bytes as f64 / 1e6, 100.0 * choice.error);
            match curves.iter_mut().find(|curve| curve.name == name) {
                Some(curve) => curve.points.push(point),
                None => {
                    let colour = curves.len() % COLOURS.len();
                    let dashed = curves.len() >= COLOURS.len();
                    curves.push(Curve { name, points: vec![point], colour, dashed, marks: !dashed });
                }
            }
        }
        let mut about =
            "What is missing of all task vectors together, when the vectors are stored in a format, against \
            the bytes that these take. A point for each number of vectors, from 1 on."
                .to_owned();
        if let Some(at) = knee(self.choices) {
            let best = &self.choices[at];
            let _ = write!(
                about,
                " At the knee of the best of all lines: {} with {} in {}, {}, {:.1} % missing.",
                best.method,
                output::counted(best.vectors, "vector"),
                best.format,
                output::bytes(best.bytes),
                100.0 * best.error,
            );
            let point = (best.bytes as f64 / 1e6, 100.0 * best.error);
            curves.push(Curve { name: "the knee".into(), points: vec![point], colour: 4, dashed: false, marks: true });
        }
        let lines = Lines { x: "MB", y: "% missing", log_x: true, log_y: false, curves };
        section(out, "What a basis costs", &about, &(lines.svg()? + &legend(&lines.curves) + &self.cost_table()));
        Ok(())
    }

    /// The choices that no other one beats in both bytes and error.
    fn cost_table(&self) -> String {
        let mut html = "<div class=\"scroll\"><table>\n<tr><th>nothing is better for its bytes</th><th>vectors</th>\
            <th>format</th><th>bytes</th><th>missing</th></tr>\n"
            .to_owned();
        let knee = knee(self.choices);
        for &at in &super::choices::front(self.choices) {
            let choice = &self.choices[at];
            let mark = if Some(at) == knee { " ← knee" } else { "" };
            let _ = writeln!(
                html,
                "<tr><td>{}{mark}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.1} %</td></tr>",
                choice.method,
                choice.vectors,
                choice.format,
                output::bytes(choice.bytes),
                100.0 * choice.error,
            );
        }
        html + "</table></div>\n"
    }

    fn spectrum(&self, out: &mut String) -> Result<()> {
        let curve = |name: &str, colour: usize, spectrum: &[f64]| {
            let points = kept(spectrum).into_iter().enumerate().map(|(m, share)| ((m + 1) as f64, 100.0 * share));
            Curve { name: name.to_owned(), points: points.collect(), colour, dashed: false, marks: true }
        };
        let curves = vec![
            curve("any vectors", 0, &self.gram.spectrum(false)),
            curve("around the mean (PCA)", 1, &self.gram.spectrum(true)),
        ];
        let lines = Lines { x: "vectors", y: "% kept", log_x: false, log_y: false, curves };
        let about = "The share of the task vectors' energy that as many vectors can keep at best.";
        section(out, "Spectrum", about, &(lines.svg()? + &legend(&lines.curves)));
        Ok(())
    }

    fn cosines(&self) -> String {
        let tasks = self.gram.tasks();
        let header = tasks.iter().map(String::as_str);
        let rows = (0..tasks.len()).map(|i| {
            let cells = (0..tasks.len()).map(move |j| Some(self.gram.cosine(i, j)));
            (tasks[i].clone(), cells.collect())
        });
        heat_table(header, rows, 1.0, |cosine| format!("{cosine:.3}"))
    }

    fn blocks(&self) -> String {
        let rows = blocks(self.gram).map(|(block, numbers)| (block, numbers.to_vec()));
        heat_table(OF_BLOCKS.into_iter(), rows, 1.0, |number| format!("{number:.3}"))
    }
}
