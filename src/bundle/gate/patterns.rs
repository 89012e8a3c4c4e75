//! Built-in images for models without data: smooth and rough, coarse and fine, few and many colours.

use crate::preprocess::Preprocess;

/// The number of built-in images.
pub(super) const COUNT: usize = 32;

/// All built-in images, preprocessed: `[32, 3, S, S]`. Nothing but +, −, × and comparisons of f32 makes them, so they
/// are the same on every machine.
pub(in crate::bundle) fn pixels(preprocess: &Preprocess) -> Vec<f32> {
    let size = preprocess.size();
    let (mean, std) = (preprocess.mean(), preprocess.std());
    let mut pixels = Vec::with_capacity(COUNT * 3 * size * size);
    for pattern in 0..COUNT {
        for (channel, (mean, std)) in mean.into_iter().zip(std).enumerate() {
            for y in 0..size {
                for x in 0..size {
                    let at = |place: usize| (place as f32 + 0.5) / size as f32;
                    pixels.push((value(pattern, channel, at(x), at(y)) - mean) / std);
                }
            }
        }
    }
    pixels
}

/// The value, 0 to 1, of an image in a channel at a place, 0 to 1 both ways.
fn value(pattern: usize, channel: usize, x: f32, y: f32) -> f32 {
    if pattern < 16 { texture(pattern, channel, x, y) } else { drawing(pattern, channel, x, y) }
}

/// Images that are full of something.
fn texture(pattern: usize, channel: usize, x: f32, y: f32) -> f32 {
    let seed = 1 + 3 * pattern as u32 + channel as u32;
    let tint = unit(seed.wrapping_mul(0x9e37_79b9));
    let either = |is: bool| if is { tint } else { 1.0 - tint };
    let scene = |octaves: u32| clouds(seed, x, y, octaves);
    match pattern {
        // Gradients: across, down, aslant, out from the middle.
        0 => x * (0.5 + 0.5 * tint),
        1 => 1.0 - y * (0.5 + 0.5 * tint),
        2 => (0.5 * (x + y) + tint) % 1.0,
        3 => 1.0 - (2.0 * distance(x, y, 0.5, 0.5)).min(1.0) * tint,
        // Checkers and stripes, coarse and fine.
        4 => either((cell(x, 4) + cell(y, 4)).is_multiple_of(2)),
        5 => either((cell(x, 28) + cell(y, 28)).is_multiple_of(2)),
        6 => either(cell(x + y, 16).is_multiple_of(2)),
        // Noise: as fine as it gets, in blocks, and as nature has it.
        7 => unit(hash(cell(x, 224), cell(y, 224), seed)),
        8 => unit(hash(cell(x, 14), cell(y, 14), seed)),
        9 => scene(2),
        10 => scene(5),
        // Shapes: discs, frames, and things in front of a scene.
        11 => either((0..5).any(|i| distance(x, y, unit(17 * i + 3), unit(29 * i + 5)) < 0.05 + 0.03 * i as f32)),
        12 => either(((distance(x, y, 0.5, 0.5) * 12.0) as u32).is_multiple_of(2)),
        13 => {
            if (x - 0.4).abs() < 0.25 && (y - 0.55).abs() < 0.3 {
                tint
            } else {
                scene(4)
            }
        }
        14 => {
            if distance(x, y, 0.55, 0.45) < 0.3 {
                0.25 + 0.75 * scene(3) * tint
            } else {
                0.3 * scene(4)
            }
        }
        _ => {
            if (x - y).abs() < 0.08 || y > 0.8 {
                1.0 - scene(5)
            } else {
                scene(1)
            }
        }
    }
}

/// A few strokes on a plain ground, light on dark, dark on light or in colours: where most patches are the same, what
/// is not normalised away stands out.
fn drawing(pattern: usize, channel: usize, x: f32, y: f32) -> f32 {
    let seed = 1033 * pattern as u32;
    let (width, count) = (0.02 + 0.05 * unit(seed), 1 + hash(seed, 1, 2) % 4);
    let is_drawn = (0..count).any(|stroke| {
        let random = |which: u32| unit(hash(seed, stroke, which + 7));
        let (from, to) = ([random(0), random(1)], [random(2), random(3)]);
        match hash(seed, stroke, 3) % 3 {
            // A ring, a bar, a line.
            0 => (distance(x, y, from[0], from[1]) - 0.3 * to[0]).abs() < 2.0 * width,
            1 => (x - from[0]).abs() < 0.3 * to[0] && (y - from[1]).abs() < 0.3 * to[1],
            _ => off_line([x, y], from, to) < width * width,
        }
    });
    let colours = match pattern % 4 {
        0 => [0.0, 1.0],
        1 => [1.0, 0.0],
        2 => [unit(seed + 11), unit(seed + 12)],
        _ => [unit(seed + 20 + channel as u32), unit(seed + 30 + channel as u32)],
    };
    colours[usize::from(is_drawn)]
}

/// The square of the distance from a point to a line between two others.
fn off_line([x, y]: [f32; 2], [from_x, from_y]: [f32; 2], [to_x, to_y]: [f32; 2]) -> f32 {
    let (dx, dy) = (to_x - from_x, to_y - from_y);
    let along = ((x - from_x) * dx + (y - from_y) * dy) / (dx * dx + dy * dy + 1e-6);
    let along = along.clamp(0.0, 1.0);
    0.25 * distance(x, y, from_x + along * dx, from_y + along * dy)
}

/// The place's number of `count` cells.
fn cell(place: f32, count: u32) -> u32 {
    (place * count as f32) as u32
}

/// The square of the distance, times four: 1 from the middle to an edge.
fn distance(x: f32, y: f32, to_x: f32, to_y: f32) -> f32 {
    4.0 * ((x - to_x) * (x - to_x) + (y - to_y) * (y - to_y))
}

/// Smooth noise of several sizes, each half as strong as the one before.
fn clouds(seed: u32, x: f32, y: f32, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut all) = (0.0, 1.0, 0.0);
    for octave in 0..octaves {
        let count = (3 << octave) as f32;
        sum += weight * smooth(seed + 101 * octave, x * count, y * count);
        all += weight;
        weight *= 0.5;
    }
    sum / all
}

/// Random numbers on a grid, and smoothly from one to the next.
fn smooth(seed: u32, x: f32, y: f32) -> f32 {
    let (column, row) = (x as u32, y as u32);
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (right, down) = (ease(x - column as f32), ease(y - row as f32));
    let corner = |dx: u32, dy: u32| unit(hash(column + dx, row + dy, seed));
    let between = |a: f32, b: f32, t: f32| a + (b - a) * t;
    between(between(corner(0, 0), corner(1, 0), right), between(corner(0, 1), corner(1, 1), right), down)
}

/// A number of three.
fn hash(a: u32, b: u32, c: u32) -> u32 {
    a.wrapping_mul(0x85eb_ca6b) ^ b.wrapping_mul(0xc2b2_ae35) ^ c.wrapping_mul(0x27d4_eb2f)
}

/// A random number below 1 for each number.
fn unit(number: u32) -> f32 {
    let mut bits = number.wrapping_add(0x9e37_79b9);
    bits = (bits ^ (bits >> 16)).wrapping_mul(0x7feb_352d);
    bits = (bits ^ (bits >> 15)).wrapping_mul(0x846c_a68b);
    ((bits ^ (bits >> 16)) >> 8) as f32 / (1 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_different_images() {
        let preprocess = Preprocess::new(24).unwrap().with_mean_std([0.0; 3], [1.0; 3]).unwrap();
        let all = pixels(&preprocess);
        let images: Vec<&[f32]> = all.chunks(3 * 24 * 24).collect();
        assert_eq!(images.len(), COUNT);
        assert!(all.iter().all(|value| (0.0..=1.0).contains(value)), "no pixel's value");
        for (i, image) in images.iter().enumerate() {
            let mean = image.iter().sum::<f32>() / image.len() as f32;
            let spread = image.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / image.len() as f32;
            assert!(spread > 1e-3, "image {i} is hardly one: {spread}");
            assert!(!images[..i].contains(image), "image {i} comes twice");
        }
    }
}
