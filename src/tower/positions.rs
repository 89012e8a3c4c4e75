//! Tables of learned positions for another number of patches, as the libraries resize them.
//!
//! All of them resize the grid of patches with PyTorch's bicubic `interpolate`, whose filter, borders and places differ
//! with its arguments: [`PositionResampling`]. What it does is linear, so that a table of a task vector is resized like
//! that of the base.

use crate::error::{Error, Result};

/// The way in which a library resizes tables of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositionResampling {
    /// `antialias=True`, to a size: timm's `resample_abs_pos_embed`, open_clip, and DINOv2 with registers, its own code
    /// as well as transformers'. Keys' filter with a = −½, widened where the grid shrinks; at borders its weights are
    /// those that are left, divided by their sum.
    Antialiased,
    /// To a size, without: transformers' `interpolate_pos_encoding` of ViT, DeiT, DINOv2, CLIP and SigLIP. Keys' filter
    /// with a = −¾, of four values whatever the scale; borders are repeated.
    Plain,
    /// As [`PositionResampling::Plain`], but by the factor (to + 0.1) / from: DINOv2's own code without registers.
    DinoV2,
}

/// A resizing of the square grids of tables of positions.
#[derive(Clone, Debug)]
pub(super) struct PositionResize {
    from: usize,
    to: usize,
    /// The rows of the old grid that a row of the new one is made of, and their weights; of columns likewise.
    rows: Vec<Vec<(usize, f64)>>,
}

impl PositionResize {
    /// The resizing of a grid of `from`² patches to one of `to`². The same size changes nothing, whatever the way.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a grid without patches.
    pub(super) fn new(from: usize, to: usize, resampling: PositionResampling) -> Result<Self> {
        if from == 0 || to == 0 {
            return Err(Error::invalid("a grid of no patches").got(format_args!("{from} and {to}")));
        }
        let (old, new) = (from as f64, to as f64);
        let row = |i: usize| match resampling {
            _ if from == to => vec![(i, 1.0)],
            PositionResampling::Antialiased => antialiased(i, from, old / new),
            PositionResampling::Plain => plain(i, from, old / new),
            PositionResampling::DinoV2 => plain(i, from, old / (new + 0.1)),
        };
        Ok(Self { from, to, rows: (0..to).map(row).collect() })
    }

    /// The table `[prefix + from², width]`, of the base or of a task vector, as one of `[prefix + to², width]`. The
    /// first `prefix` rows, of tokens that are no patches, stay as they are.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) for a table of another size.
    pub(super) fn apply(&self, table: &[f32], prefix: usize, width: usize) -> Result<Vec<f32>> {
        let expected = (prefix + self.from * self.from) * width;
        if table.len() != expected {
            return Err(Error::mismatch("a table of positions of another size")
                .expected(format_args!("[{}, {width}]", prefix + self.from * self.from))
                .got(format_args!("{} values", table.len())));
        }
        let (tokens, patches) = table.split_at(prefix * width);
        // Along the columns first: [from, to, width].
        let line = self.from * width;
        let mut across = vec![0.0; self.from * self.to * width];
        for (y, out) in across.chunks_exact_mut(self.to * width).enumerate() {
            for (taps, out) in self.rows.iter().zip(out.chunks_exact_mut(width)) {
                for &(x, weight) in taps {
                    let values = &patches[y * line + x * width..][..width];
                    out.iter_mut().zip(values).for_each(|(out, &value)| *out += weight * f64::from(value));
                }
            }
        }
        let mut out = tokens.to_vec();
        out.reserve_exact(self.to * self.to * width);
        let line = self.to * width;
        let mut sums = vec![0.0; line];
        for taps in &self.rows {
            sums.fill(0.0);
            for &(y, weight) in taps {
                let values = &across[y * line..][..line];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
            }
            out.extend(sums.iter().map(|&sum| sum as f32));
        }
        Ok(out)
    }
}

/// The weights of the `i`-th value of a line, of the old ones that the widened filter reaches.
fn antialiased(i: usize, from: usize, scale: f64) -> Vec<(usize, f64)> {
    let (center, widened) = (scale * (i as f64 + 0.5), scale.max(1.0));
    let reach = |distance: f64| (center + distance + 0.5).clamp(0.0, from as f64) as usize;
    let taps = reach(-2.0 * widened)..reach(2.0 * widened);
    let weight = |j: usize| keys((j as f64 + 0.5 - center) / widened, -0.5);
    let sum: f64 = taps.clone().map(weight).sum();
    taps.map(|j| (j, weight(j) / sum)).collect()
}

/// The weights of the `i`-th value of a line, of the four old ones around it.
fn plain(i: usize, from: usize, scale: f64) -> Vec<(usize, f64)> {
    // In f32 as PyTorch has it: far along a line that moves the place by a millionth.
    let place = f64::from(scale as f32 * (i as f32 + 0.5) - 0.5);
    let first = place.floor().min(from as f64 - 1.0);
    // Past the last value it stands still.
    let distance = (place - first).clamp(0.0, 1.0);
    let held = |j: f64| (first + j).clamp(0.0, from as f64 - 1.0) as usize;
    [-1.0, 0.0, 1.0, 2.0].map(|j| (held(j), keys(distance - j, -0.75))).to_vec()
}

/// Keys' bicubic filter.
fn keys(x: f64, a: f64) -> f64 {
    match x.abs() {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `tests/support/positions.py`: way, old and new grid, and values of the new table.
    type Right = (PositionResampling, usize, usize, &'static [f32]);

    #[rustfmt::skip]
    const RIGHT: &[Right] = &[
        (PositionResampling::Antialiased, 4, 3, &[
            0.02069748, 0.7521059, -0.006765923, -0.680379, -0.212168, 0.02242393, -0.2787991, -0.5462604,
            0.6570504,
        ]),
        (PositionResampling::Antialiased, 3, 5, &[
            -0.01617272, 0.1262341, 0.4157187, 0.8506503, 1.106386, -0.1219642, -0.05305367, 0.1237792, 0.546963,
            0.8078242, -0.1746185, -0.2698986, -0.3552535, -0.01922593, 0.2138248, 0.4422584, 0.03691877,
            -0.5845937, -0.6506898, -0.6232629, 0.8581489, 0.2656556, -0.6819788, -1.005238, -1.111233,
        ]),
        (PositionResampling::Antialiased, 37, 16, &[
            0.1683007, 0.2615137, 0.1370248, -0.576993, 0.1892024, 0.1486846,
        ]),
        (PositionResampling::Plain, 4, 3, &[
            0.006001097, 0.819047, -0.08817194, -0.774193, -0.2381062, -0.03865132, -0.09983771, -0.5365028,
            0.7938202,
        ]),
        (PositionResampling::Plain, 3, 5, &[
            -0.02161534, 0.1316192, 0.4304349, 0.8544782, 1.136651, -0.158538, -0.08921108, 0.1053434, 0.5239201,
            0.8239065, -0.1711706, -0.2905609, -0.3552535, -0.043511, 0.2246872, 0.4214704, -0.02595429, -0.592792,
            -0.6634996, -0.6000941, 0.9077551, 0.2329779, -0.6882154, -1.048172, -1.145083,
        ]),
        (PositionResampling::Plain, 37, 16, &[
            -0.03629303, 0.4033701, 0.5231313, -0.6053967, 0.8204954, -0.3817014,
        ]),
        (PositionResampling::DinoV2, 4, 3, &[
            0.004427019, 0.7598845, 0.0735217, -0.7172604, -0.1531731, -0.07781006, -0.2244223, -0.6205899,
            0.6362572,
        ]),
        (PositionResampling::DinoV2, 3, 5, &[
            -0.02199609, 0.1268327, 0.408651, 0.829963, 1.127638, -0.1519995, -0.08165228, 0.0988761, 0.5083303,
            0.8245125, -0.1883494, -0.2868253, -0.3411046, -0.03236171, 0.2608827, 0.3761598, -0.03431739,
            -0.5664766, -0.639109, -0.5511689, 0.894219, 0.2518157, -0.6424209, -1.028973, -1.119032,
        ]),
        (PositionResampling::DinoV2, 37, 16, &[
            -0.04037583, 0.2901939, 0.4860581, -0.8392603, 0.7880635, -0.8374157,
        ]),
    ];

    fn table(grid: usize) -> Vec<f32> {
        (0..grid * grid).map(|i| ((i * i) as f64 * 0.37).sin() as f32).collect()
    }

    #[test]
    fn tables_are_those_of_pytorch() {
        for &(resampling, from, to, right) in RIGHT {
            let new = PositionResize::new(from, to, resampling).unwrap().apply(&table(from), 0, 1).unwrap();
            assert_eq!(new.len(), to * to);
            let every = if to < 10 { 1 } else { 51 };
            let got: Vec<f32> = new.into_iter().step_by(every).collect();
            assert_eq!(got.len(), right.len());
            for (got, right) in got.iter().zip(right) {
                assert!((got - right).abs() < 2e-6, "{resampling:?} {from} {to}: {got} {right}");
            }
        }
    }

    #[test]
    fn other_tokens_and_channels_are_kept_apart() {
        let (resize, grid) = (PositionResize::new(4, 3, PositionResampling::Plain).unwrap(), table(4));
        let alone = resize.apply(&grid, 0, 1).unwrap();
        // Two tokens in front, and a second channel that is twice the first.
        let both: Vec<f32> = [7.0, 8.0, 9.0, 10.0].into_iter().chain(grid.iter().flat_map(|v| [*v, 2.0 * v])).collect();
        let new = resize.apply(&both, 2, 2).unwrap();
        assert_eq!(new[..4], [7.0, 8.0, 9.0, 10.0]);
        let expected: Vec<f32> = alone.iter().flat_map(|v| [*v, 2.0 * v]).collect();
        assert_eq!(new[4..], expected);
        assert!(resize.apply(&both, 1, 2).is_err());
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let every = [PositionResampling::Antialiased, PositionResampling::Plain, PositionResampling::DinoV2];
        for resampling in every {
            let same = PositionResize::new(5, 5, resampling).unwrap();
            assert_eq!(same.apply(&table(5), 0, 1).unwrap(), table(5));
            assert!(PositionResize::new(0, 5, resampling).is_err() && PositionResize::new(5, 0, resampling).is_err());
        }
    }
}
