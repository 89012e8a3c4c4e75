//! Plots as SVG text. Titles and legends are the page's, as it knows how wide text is.

use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use taskbasis::{Error, ErrorKind, Result};

use crate::output::digits;

/// Pixels, across and down.
const SIZE: (u32, u32) = (760, 340);

/// Pixels that a bar needs for a number above it.
const NARROW: f64 = 38.0;

/// Colours that the common kinds of colour blindness keep apart (Okabe and Ito 2008), and a grey.
pub const COLOURS: [(u8, u8, u8); 8] = [
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (130, 130, 130),
    (240, 228, 66),
];
const INK: RGBColor = RGBColor(70, 76, 84);
const GRID: RGBColor = RGBColor(228, 231, 235);

/// A line, and what the legend calls it.
pub struct Curve {
    pub name: String,
    pub points: Vec<(f64, f64)>,
    pub colour: usize,
    /// Dashed, and without marks at its points: a limit or a fit, nothing that was measured.
    pub dashed: bool,
    /// Marks at the points.
    pub marks: bool,
}

/// Lines over a common axis.
pub struct Lines {
    pub x: &'static str,
    pub y: &'static str,
    /// The horizontal axis is logarithmic.
    pub log_x: bool,
    /// The vertical axis is logarithmic.
    pub log_y: bool,
    pub curves: Vec<Curve>,
}

/// Bars, in groups.
pub struct Bars {
    pub y: &'static str,
    /// The text below each group.
    pub groups: Vec<String>,
    /// A name and a value a group.
    pub series: Vec<(String, Vec<f64>)>,
}

impl Lines {
    pub fn svg(&self) -> Result<String> {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        // From below the least to above the highest, as a logarithmic axis has no 0.
        let ends = |of: fn(&(f64, f64)) -> f64| {
            let highest = points().map(of).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
            let least = points().map(of).filter(|value| *value > 0.0).fold(highest, f64::min);
            (0.9 * least, 1.1 * highest)
        };
        let ((left, right), (bottom, top)) = (ends(|p| p.0), ends(|p| p.1));
        let mut svg = String::new();
        let drawn = match (self.log_x, self.log_y) {
            (false, false) => self.draw(&mut svg, 0.0..right, 0.0..top),
            (true, false) => self.draw(&mut svg, (left..right).log_scale(), 0.0..top),
            (false, true) => self.draw(&mut svg, 0.0..right, (bottom..top).log_scale()),
            (true, true) => self.draw(&mut svg, (left..right).log_scale(), (bottom..top).log_scale()),
        };
        drawn.map(|()| svg).map_err(failed)
    }

    fn draw<X, Y>(
        &self,
        svg: &mut String,
        x: impl AsRangedCoord<CoordDescType = X, Value = f64>,
        y: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    ) -> Drawn
    where
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let farthest = self.curves.iter().flat_map(|curve| &curve.points).map(|p| p.0).fold(0.0, f64::max);
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart =
            ChartBuilder::on(&root).margin(12).x_label_area_size(46).y_label_area_size(64).build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_desc(self.x)
            // No parts between whole numbers of vectors; shares in tenths.
            .x_labels(if farthest > 1.0 { (farthest.ceil() as usize + 1).clamp(2, 11) } else { 11 })
            .y_desc(self.y)
            .x_label_formatter(&|x| plain(*x))
            .y_label_formatter(&|y| plain(*y))
            .label_style(("sans-serif", 15, &INK))
            .axis_desc_style(("sans-serif", 16, &INK))
            .draw()?;
        for curve in &self.curves {
            let (r, g, b) = COLOURS[curve.colour % COLOURS.len()];
            let style = RGBColor(r, g, b).stroke_width(2);
            if curve.dashed {
                chart.draw_series(DashedLineSeries::new(curve.points.iter().copied(), 6, 5, style))?;
            } else {
                chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
            }
            if curve.marks {
                let mark = |point: &(f64, f64)| Circle::new(*point, 4, style.filled());
                chart.draw_series(curve.points.iter().map(mark))?;
            }
        }
        root.present()?;
        Ok(())
    }
}

impl Bars {
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).map(|()| svg).map_err(failed)
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let highest = self.series.iter().flat_map(|(_, values)| values).copied().fold(f64::MIN_POSITIVE, f64::max);
        let groups = self.groups.len();
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(34)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.5..groups as f64 - 0.5, 0.0..1.15 * highest)?;
        // A name where the axis has a whole number, nothing between.
        let name = |x: &f64| {
            let whole = (x - x.round()).abs() < 1e-6 && x.round() >= 0.0;
            if whole { self.groups.get(x.round() as usize).cloned().unwrap_or_default() } else { String::new() }
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .y_desc(self.y)
            .x_labels(2 * groups + 1)
            .set_tick_mark_size(LabelAreaPosition::Bottom, 5)
            .x_label_formatter(&name)
            .y_label_formatter(&|y| plain(*y))
            .label_style(("sans-serif", 15, &INK))
            .axis_desc_style(("sans-serif", 16, &INK))
            .draw()?;
        let width = 0.8 / self.series.len().max(1) as f64;
        // What is broader than its bar is written upwards.
        let is_narrow = width / groups.max(1) as f64 * f64::from(SIZE.0) < NARROW;
        let (across, up) = if is_narrow { (HPos::Left, VPos::Center) } else { (HPos::Center, VPos::Bottom) };
        let turned = if is_narrow { FontTransform::Rotate270 } else { FontTransform::None };
        let font = ("sans-serif", 13).into_font().transform(turned);
        let label = font.color(&INK).into_text_style(&root).pos(Pos::new(across, up));
        for (s, (_, values)) in self.series.iter().enumerate() {
            let (r, g, b) = COLOURS[s % COLOURS.len()];
            let left = |group: usize| group as f64 - 0.4 + s as f64 * width;
            chart.draw_series(values.iter().enumerate().map(|(group, value)| {
                let corners = [(left(group) + 0.02, 0.0), (left(group) + width - 0.02, *value)];
                Rectangle::new(corners, RGBColor(r, g, b).filled())
            }))?;
            chart.draw_series(values.iter().enumerate().map(|(group, value)| {
                let top = (left(group) + width / 2.0, *value + 0.01 * highest);
                Text::new(digits(*value), top, label.clone())
            }))?;
        }
        root.present()?;
        Ok(())
    }
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::new(ErrorKind::Internal, "cannot draw a plot").because(error)
}

/// A number on an axis: `20`, `0.5`.
fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_drawn() {
        let curve = |dashed| Curve {
            name: "a".into(),
            points: vec![(1.0, 10.0), (2.0, 20.0), (1000.0, 5.0)],
            colour: 1,
            dashed,
            marks: !dashed,
        };
        for (log_x, log_y) in [(false, false), (true, false), (false, true), (true, true)] {
            let lines = Lines { x: "M", y: "ms", log_x, log_y, curves: vec![curve(false), curve(true)] };
            let svg = lines.svg().unwrap();
            assert!(
                svg.starts_with("<svg") && svg.contains("<circle") && svg.contains(">ms<") || svg.contains("ms\n"),
                "{svg}"
            );
        }
        let bars = Bars { y: "1/s", groups: vec!["1".into(), "8".into()], series: vec![("x".into(), vec![3.0, 4.5])] };
        let svg = bars.svg().unwrap();
        assert!(svg.contains("4.50") && svg.contains("<rect"), "{svg}");
    }

    #[test]
    fn numbers_on_an_axis() {
        assert_eq!((plain(20.0), plain(0.5), plain(0.0)), ("20".into(), "0.5".into(), "0".into()));
    }
}
