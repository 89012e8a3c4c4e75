//! Which images are looked at: some of every class, chosen by a seed.

use twox_hash::XxHash3_64;

use crate::error::{Error, Result};

/// `shots` images of every class that has any, by their places in the split, in its order. The same seed chooses the
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
) -> Result<Vec<usize>> {
    check(shots)?;
    let classes = labels.iter().max().map_or(0, |&last| last + 1);
    let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(image, &label)| of_class[label].push(image));
    let mut chosen = Vec::new();
    for (class, images) in of_class.into_iter().enumerate().filter(|(_, images)| !images.is_empty()) {
        if images.len() < shots {
            return Err(Error::invalid(format!("class `{}` of task `{task}` has too few images", class_name(class)))
                .expected(format_args!("{shots}, as many as the shots"))
                .got(images.len())
                .hint("Take fewer of every class: --shots"));
        }
        chosen.extend(&shuffled(images, task, seed)[..shots]);
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// `count` images of `total`, whatever they show.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`](crate::ErrorKind::InvalidArgument) for a count below two, and where there are fewer.
pub fn choose_images(task: &str, total: usize, count: usize, seed: u64) -> Result<Vec<usize>> {
    check(count)?;
    if total < count {
        return Err(Error::invalid(format!("task `{task}` has too few images"))
            .expected(format_args!("{count}, the shots of all classes"))
            .got(total)
            .hint("Take fewer: --shots"));
    }
    let mut chosen = shuffled((0..total).collect(), task, seed);
    chosen.truncate(count);
    chosen.sort_unstable();
    Ok(chosen)
}

fn check(shots: usize) -> Result<()> {
    match shots {
        2.. => Ok(()),
        _ => Err(Error::invalid("too few shots: one to fit on and one to hold out").expected("at least 2").got(shots)),
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
        assert_eq!(chosen.len(), 3 * 6);
        for class in [0, 1, 3] {
            assert_eq!(chosen.iter().filter(|&&image| labels[image] == class).count(), 6);
        }
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]), "each once, in the order of the split");
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
        assert_eq!(choose_images("A", 9, 9, 0).unwrap(), (0..9).collect::<Vec<_>>());
        assert_eq!(choose_images("A", 9, 5, 0).unwrap().len(), 5);
    }
}
