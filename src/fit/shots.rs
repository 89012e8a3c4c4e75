//! Which images are looked at: some of every class, for training and for validation, chosen by a seed.

use twox_hash::XxHash3_64;

use crate::error::{Error, Result};

/// Images of one task, by their places in the split.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Shots {
    /// Coefficients are fitted on these.
    pub training: Vec<usize>,
    /// The best of several are chosen on these.
    pub validation: Vec<usize>,
}

/// `shots` images of every class that has any, a quarter of them (rounded up) for validation. The same seed chooses the
/// same images of the same labels.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for fewer than two shots, and for a class that has
/// fewer images, which `class_name` names.
pub fn choose_shots(
    task: &str,
    labels: &[usize],
    shots: usize,
    seed: u64,
    class_name: impl Fn(usize) -> String,
) -> Result<Shots> {
    check(shots)?;
    let classes = labels.iter().max().map_or(0, |&last| last + 1);
    let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(image, &label)| of_class[label].push(image));
    let mut chosen = Shots::default();
    for (class, images) in of_class.into_iter().enumerate().filter(|(_, images)| !images.is_empty()) {
        if images.len() < shots {
            return Err(Error::invalid(format!("class `{}` of task `{task}` has too few images", class_name(class)))
                .expected(format_args!("{shots}, as many as the shots"))
                .got(images.len())
                .hint("Take fewer of every class: --shots"));
        }
        chosen.add(shuffled(images, task, seed), shots);
    }
    chosen.sort();
    Ok(chosen)
}

/// `count` images of `total`, whatever they show, a quarter of them (rounded up) for validation.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a count below two, and where there are fewer.
pub fn choose_images(task: &str, total: usize, count: usize, seed: u64) -> Result<Shots> {
    check(count)?;
    if total < count {
        return Err(Error::invalid(format!("task `{task}` has too few images"))
            .expected(format_args!("{count}, the shots of all classes"))
            .got(total)
            .hint("Take fewer: --shots"));
    }
    let mut chosen = Shots::default();
    chosen.add(shuffled((0..total).collect(), task, seed), count);
    chosen.sort();
    Ok(chosen)
}

fn check(shots: usize) -> Result<()> {
    match shots {
        2.. => Ok(()),
        _ => Err(Error::invalid("too few shots: one to fit on and one to choose by").expected("at least 2").got(shots)),
    }
}

impl Shots {
    fn add(&mut self, images: Vec<usize>, count: usize) {
        let validation = count.div_ceil(4);
        self.validation.extend(&images[..validation]);
        self.training.extend(&images[validation..count]);
    }

    /// Files are read in their order.
    fn sort(&mut self) {
        self.training.sort_unstable();
        self.validation.sort_unstable();
    }
}

/// The images in an order that looks random: that of hashes of their places.
fn shuffled(mut images: Vec<usize>, task: &str, seed: u64) -> Vec<usize> {
    let seed = XxHash3_64::oneshot_with_seed(seed, task.as_bytes());
    images.sort_by_cached_key(|&image| (hash(seed, image), image));
    images
}

/// A number that looks random.
pub(super) fn hash(seed: u64, number: usize) -> u64 {
    XxHash3_64::oneshot_with_seed(seed, &(number as u64).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_gives_as_many() {
        let labels: Vec<usize> = (0..60).map(|i| if i % 3 == 2 { 3 } else { i % 3 }).collect();
        let choose = |seed| choose_shots("A", &labels, 6, seed, |class| class.to_string()).unwrap();
        let chosen = choose(1);
        assert_eq!((chosen.training.len(), chosen.validation.len()), (3 * 4, 3 * 2));
        for class in [0, 1, 3] {
            assert_eq!(chosen.training.iter().filter(|&&image| labels[image] == class).count(), 4);
            assert_eq!(chosen.validation.iter().filter(|&&image| labels[image] == class).count(), 2);
        }
        assert!(chosen.training.iter().all(|image| !chosen.validation.contains(image)));
        assert_eq!(choose(1), chosen);
        assert_ne!(choose(2), chosen);
    }

    #[test]
    fn too_few_are_told_by_their_class() {
        let error = choose_shots("MNIST", &[0, 0, 0, 1, 1], 3, 0, |class| ["zero", "one"][class].into()).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("class `one` of task `MNIST`") && error.contains("got 2"), "{error}");
        assert!(choose_shots("A", &[0; 9], 1, 0, |_| String::new()).is_err());
        assert!(choose_images("A", 5, 6, 0).unwrap_err().to_string().contains("got 5"));
        let chosen = choose_images("A", 9, 9, 0).unwrap();
        assert_eq!((chosen.training.len(), chosen.validation.len()), (6, 3));
    }
}
