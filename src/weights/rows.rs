//! Rows of a parameter multiplied by factors, one each, in whatever order a view has them.

use super::layout::{Strided, View};
use crate::error::Result;

impl View {
    /// Multiplies the view's elements, in its order and once, by the factor of the row that each is of: a parameter of
    /// this shape has as many rows as there are factors.
    ///
    /// # Errors
    /// As [`View::strided`].
    pub(crate) fn multiply_rows(&self, parameter: &[usize], factors: &[f64], values: &mut [f32]) -> Result<()> {
        let row = parameter.iter().skip(1).product::<usize>().max(1);
        let by = |value: &mut f32, factor: f64| *value = (f64::from(*value) * factor) as f32;
        let Strided { offset, shape, strides } = self.once(parameter)?;
        if self.permute.is_none() {
            for (row, factor) in values.chunks_mut(row).zip(&factors[offset / row..]) {
                row.iter_mut().for_each(|value| by(value, *factor));
            }
            return Ok(());
        }
        let mut at = vec![0; shape.len()];
        let mut element = offset;
        for value in values {
            by(value, factors[element / row]);
            for d in (0..shape.len()).rev() {
                at[d] += 1;
                element += strides[d];
                if at[d] < shape[d] {
                    break;
                }
                element -= at[d] * strides[d];
                at[d] = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_parameter_in_every_order() {
        let shape = [4, 3, 2];
        let factors = [2.0, 3.0, 5.0, 7.0];
        let whole: Vec<f32> = (0..24).map(|i| i as f32).collect();
        for (rows, permute) in [
            (None, None),
            (Some([1, 3]), None),
            (None, Some(vec![1, 2, 0])),
            (None, Some(vec![2, 1, 0])),
            (Some([2, 4]), Some(vec![1, 0, 2])),
        ] {
            let view = View { rows, permute: permute.clone(), ..View::whole("w") };
            let [first, last] = rows.unwrap_or([0, 4]);
            let extents = [last - first, 3, 2];
            let order = permute.unwrap_or_else(|| vec![0, 1, 2]);
            // Every element of the view, its place found anew.
            let (mut values, mut expected) = (Vec::new(), Vec::new());
            let out: Vec<usize> = order.iter().map(|d| extents[*d]).collect();
            for i in 0..out.iter().product() {
                let mut index = [0; 3];
                let mut rest = i;
                for d in (0..3).rev() {
                    index[order[d]] = rest % out[d];
                    rest /= out[d];
                }
                let value = whole[((index[0] + first) * 3 + index[1]) * 2 + index[2]];
                values.push(value);
                expected.push(value * factors[index[0] + first] as f32);
            }
            view.multiply_rows(&shape, &factors, &mut values).unwrap();
            assert_eq!(values, expected, "{view:?}");
        }
    }
}
