//! The vision transformer written out in f64, loop by loop: slow, and plainly what the paper says.

use super::tensors::Tensors;
use taskbasis::{Activation, Arch, Pooling};

/// The embeddings of `n` images, `[n, e]`.
pub fn encode(arch: &Arch, weights: &Tensors, pixels: &[f32], n: usize) -> Vec<f32> {
    pixels.chunks(arch.pixels()).take(n).flat_map(|image| encode_one(arch, weights, image)).collect()
}

type Row = Vec<f64>;

fn encode_one(arch: &Arch, weights: &Tensors, image: &[f32]) -> Vec<f32> {
    let p = |name: &str| -> Row { weights.values(&format!("visual.{name}")).iter().map(|&v| f64::from(v)).collect() };
    let epsilon = f64::from(arch.variant.norm_epsilon.get());
    let layer_norm = |x: &[f64], weight: &[f64], bias: &[f64]| layer_norm(x, weight, bias, epsilon);
    let mut tokens = embed(arch, &p("conv1.weight"), &p("class_embedding"), image);
    for (token, position) in tokens.iter_mut().zip(p("positional_embedding").chunks(arch.width)) {
        token.iter_mut().zip(position).for_each(|(t, p)| *t += p);
        if arch.variant.pre_norm {
            *token = layer_norm(token, &p("ln_pre.weight"), &p("ln_pre.bias"));
        }
    }
    for layer in 0..arch.layers {
        let p = |name: &str| p(&format!("transformer.resblocks.{layer}.{name}"));
        let x: Vec<Row> = tokens.iter().map(|t| layer_norm(t, &p("ln_1.weight"), &p("ln_1.bias"))).collect();
        let qkv: Vec<Row> = x.iter().map(|x| linear(x, &p("attn.in_proj_weight"), &p("attn.in_proj_bias"))).collect();
        for (token, attended) in tokens.iter_mut().zip(attention(arch, &qkv)) {
            let out = linear(&attended, &p("attn.out_proj.weight"), &p("attn.out_proj.bias"));
            token.iter_mut().zip(out).for_each(|(t, o)| *t += o);
            let x = layer_norm(token, &p("ln_2.weight"), &p("ln_2.bias"));
            let mut hidden = linear(&x, &p("mlp.c_fc.weight"), &p("mlp.c_fc.bias"));
            hidden.iter_mut().for_each(|h| *h = activate(arch.activation, *h));
            let out = linear(&hidden, &p("mlp.c_proj.weight"), &p("mlp.c_proj.bias"));
            token.iter_mut().zip(out).for_each(|(t, o)| *t += o);
        }
    }
    let norm = |x: &[f64]| layer_norm(x, &p("ln_post.weight"), &p("ln_post.bias"));
    let pooled = match arch.variant.pooling {
        Pooling::ClassToken => norm(&tokens[0]),
        Pooling::MeanThenNorm => norm(&mean(&tokens[1..])),
        Pooling::NormThenMean => mean(&tokens[1..].iter().map(|token| norm(token)).collect::<Vec<_>>()),
        Pooling::PatchMean => return mean(&tokens[1..]).into_iter().map(|value| value as f32).collect(),
    };
    let projection = p("proj");
    (0..arch.embed_dim)
        .map(|e| pooled.iter().enumerate().map(|(i, c)| c * projection[i * arch.embed_dim + e]).sum::<f64>() as f32)
        .collect()
}

fn mean(rows: &[Row]) -> Row {
    (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64).collect()
}

/// The class token, then the patches row by row.
fn embed(arch: &Arch, kernel: &[f64], class: &[f64], image: &[f32]) -> Vec<Row> {
    let (patch, size) = (arch.patch, arch.image_size());
    let mut tokens = vec![class.to_vec()];
    for (py, px) in (0..arch.grid).flat_map(|y| (0..arch.grid).map(move |x| (y, x))) {
        let token = (0..arch.width).map(|w| {
            let mut sum = 0.0;
            for (c, y, x) in (0..3).flat_map(|c| (0..patch).flat_map(move |y| (0..patch).map(move |x| (c, y, x)))) {
                let pixel = image[(c * size + py * patch + y) * size + px * patch + x];
                sum += kernel[((w * 3 + c) * patch + y) * patch + x] * f64::from(pixel);
            }
            sum
        });
        tokens.push(token.collect());
    }
    tokens
}

fn attention(arch: &Arch, qkv: &[Row]) -> Vec<Row> {
    let (w, d) = (arch.width, arch.width / arch.heads);
    let mut out = vec![vec![0.0; w]; qkv.len()];
    for head in 0..arch.heads {
        let part = |row: &Row, which: usize| row[which * w + head * d..][..d].to_vec();
        for (i, row) in qkv.iter().enumerate() {
            let q = part(row, 0);
            let scores: Row = qkv.iter().map(|row| dot(&q, &part(row, 1)) / (d as f64).sqrt()).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let shares: Row = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = shares.iter().sum();
            for (share, row) in shares.iter().zip(qkv) {
                let v = part(row, 2);
                out[i][head * d..][..d].iter_mut().zip(v).for_each(|(o, v)| *o += share / total * v);
            }
        }
    }
    out
}

fn linear(x: &[f64], weight: &[f64], bias: &[f64]) -> Row {
    weight.chunks(x.len()).zip(bias).map(|(row, b)| dot(x, row) + b).collect()
}

fn layer_norm(x: &[f64], weight: &[f64], bias: &[f64], epsilon: f64) -> Row {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    x.iter().zip(weight.iter().zip(bias)).map(|(v, (w, b))| (v - mean) / (variance + epsilon).sqrt() * w + b).collect()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let slope = (2.0 / std::f64::consts::PI).sqrt();
            0.5 * x * (1.0 + (slope * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

/// The error function by its power series, which converges well for the arguments that occur; ±1 beyond.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
