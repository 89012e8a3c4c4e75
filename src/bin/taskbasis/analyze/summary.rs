//! The numbers that text and page tell alike.

use taskbasis::Selector;
use taskbasis::build::Gram;

/// What [`blocks`] gives of each block.
pub(super) const OF_BLOCKS: [&str; 4] = ["share of the square length", "cosine: mean", "least", "most"];

/// How much of the task vectors lies in each block, in the mean over the tasks, and how alike they are there: the mean,
/// the least and the largest cosine of two, where there are two.
pub(super) fn blocks(gram: &Gram) -> impl Iterator<Item = (String, [Option<f64>; 4])> {
    let tasks = gram.tasks().len();
    gram.by_group(Selector::of_block).into_iter().map(move |part| {
        let share = (0..tasks).map(|t| part.get(t, t) / gram.get(t, t)).sum::<f64>() / tasks as f64;
        let pairs = (0..tasks).flat_map(|i| (0..i).map(move |j| (i, j)));
        let cosines: Vec<f64> = pairs.map(|(i, j)| part.cosine(i, j)).collect();
        let of = |value: f64| (!cosines.is_empty()).then_some(value);
        let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
        let least = cosines.iter().copied().fold(f64::INFINITY, f64::min);
        let most = cosines.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (part.group.to_string(), [Some(share), of(mean), of(least), of(most)])
    })
}

/// The shares of a spectrum's sum that its first value, its first two, … have.
pub(super) fn kept(spectrum: &[f64]) -> Vec<f64> {
    let whole = spectrum.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let mut sum = 0.0;
    let add = |value: &f64| {
        sum += value;
        sum / whole
    };
    spectrum.iter().map(add).collect()
}
