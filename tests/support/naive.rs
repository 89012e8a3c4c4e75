//! The vision transformer written out in f64, loop by loop: slow, and plainly what the paper says.

use super::tensors::Tensors;
use taskbasis::{Activation, Arch, Pooling, Positions, Projection, Rotary};

/// The embeddings of `n` images, `[n, e]`.
pub fn encode(arch: &Arch, weights: &Tensors, pixels: &[f32], n: usize) -> Vec<f32> {
    let embed = |image: &[f32]| encode_one(&Tower { arch, weights }, image);
    pixels.chunks(arch.pixels()).take(n).flat_map(embed).map(|value| value as f32).collect()
}

/// The hidden features of `n` images, `[n, 2·width]`, of a tower that pools by the class token.
pub fn hidden(arch: &Arch, weights: &Tensors, pixels: &[f32], n: usize) -> Vec<f32> {
    let tower = &Tower { arch, weights };
    let of = |image: &[f32]| {
        let tokens = last_tokens(tower, image);
        [tower.norm("ln_post", &tokens[0]), mean(&tokens[arch.variant.tokens.count()..])].concat()
    };
    pixels.chunks(arch.pixels()).take(n).flat_map(of).map(|value| value as f32).collect()
}

type Row = Vec<f64>;

struct Tower<'a> {
    arch: &'a Arch,
    weights: &'a Tensors,
}

impl Tower<'_> {
    /// The parameter of this name; nothing for one that the tower has not.
    fn p(&self, name: &str) -> Row {
        let values = self.weights.0.get(&format!("visual.{name}"));
        values.map(|(_, values)| values.iter().map(|&v| f64::from(v)).collect()).unwrap_or_default()
    }

    fn rows(&self, name: &str) -> Vec<Row> {
        self.p(name).chunks(self.arch.width).map(<[f64]>::to_vec).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Row {
        let epsilon = f64::from(self.arch.variant.norm_epsilon.get());
        layer_norm(x, &self.p(&format!("{name}.weight")), &self.p(&format!("{name}.bias")), epsilon)
    }

    fn linear(&self, name: &str, x: &[f64]) -> Row {
        linear(x, &self.p(&format!("{name}.weight")), &self.p(&format!("{name}.bias")))
    }

    fn mlp(&self, prefix: &str, x: &[f64], is_gated: bool, is_normed: bool) -> Row {
        let mut hidden = self.linear(&format!("{prefix}mlp.c_fc"), &self.norm(&format!("{prefix}ln_2"), x));
        if is_gated {
            let (gate, up) = hidden.split_at(hidden.len() / 2);
            hidden = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        } else {
            hidden.iter_mut().for_each(|h| *h = activate(self.arch.activation, *h));
        }
        if is_normed {
            hidden = self.norm(&format!("{prefix}mlp.ln"), &hidden);
        }
        self.linear(&format!("{prefix}mlp.c_proj"), &hidden)
    }
}

/// The tokens that leave the last block.
fn last_tokens(tower: &Tower<'_>, image: &[f32]) -> Vec<Row> {
    let arch = tower.arch;
    let variant = arch.variant;
    let mut tokens = stem(tower, image);
    for layer in 0..arch.layers {
        let prefix = format!("transformer.resblocks.{layer}.");
        let at = |name: &str| format!("{prefix}{name}");
        let scale = |name: &str, x: Row| {
            let gain = tower.p(&at(name));
            if gain.is_empty() { x } else { x.iter().zip(gain).map(|(x, g)| x * g).collect() }
        };
        let (weight, bias) = (tower.p(&at("attn.in_proj_weight")), tower.p(&at("attn.in_proj_bias")));
        let mut qkv: Vec<Row> = tokens.iter().map(|t| linear(&tower.norm(&at("ln_1"), t), &weight, &bias)).collect();
        if let Some(rotary) = variant.rotary {
            rotate(arch, rotary, &mut qkv);
        }
        for (token, mut attended) in tokens.iter_mut().zip(attention(arch.width, arch.heads, &qkv, &qkv)) {
            if variant.blocks.attn_norm {
                attended = tower.norm(&at("attn.ln_inner"), &attended);
            }
            add(token, scale("ls_1.gamma", tower.linear(&at("attn.out_proj"), &attended)));
            add(token, scale("ls_2.gamma", tower.mlp(&prefix, token, variant.blocks.gated, variant.blocks.mlp_norm)));
        }
    }
    tokens
}

fn encode_one(tower: &Tower<'_>, image: &[f32]) -> Row {
    let arch = tower.arch;
    let pooled = pool(tower, &last_tokens(tower, image));
    if !arch.variant.pooling.is_projected() || arch.variant.projection == Projection::None {
        return pooled;
    }
    let (projection, bias) = (tower.p("proj"), tower.p("proj_bias"));
    let column = |e: usize| pooled.iter().enumerate().map(|(i, c)| c * projection[i * arch.embed_dim + e]).sum::<f64>();
    (0..arch.embed_dim).map(|e| column(e) + bias.get(e).unwrap_or(&0.0)).collect()
}

fn pool(tower: &Tower<'_>, tokens: &[Row]) -> Row {
    let arch = tower.arch;
    let norm = |x: &[f64]| tower.norm("ln_post", x);
    let patches = &tokens[arch.variant.tokens.count()..];
    let normed = || -> Vec<Row> { tokens.iter().map(|token| norm(token)).collect() };
    match arch.variant.pooling {
        Pooling::ClassToken => norm(&tokens[0]),
        Pooling::MeanThenNorm => norm(&mean(patches)),
        Pooling::NormThenMean => mean(&patches.iter().map(|token| norm(token)).collect::<Vec<_>>()),
        Pooling::PatchMean => mean(patches),
        Pooling::ClassAndMean => {
            let patches: Vec<Row> = patches.iter().map(|token| norm(token)).collect();
            [norm(&tokens[0]), mean(&patches)].concat()
        }
        Pooling::ClassAndDistillation => [norm(&tokens[0]), norm(&tokens[1])].concat(),
        Pooling::Attention => {
            let (weight, bias) = (tower.p("attn_pool.attn.in_proj_weight"), tower.p("attn_pool.attn.in_proj_bias"));
            let qkv: Vec<Row> = normed().iter().map(|token| linear(token, &weight, &bias)).collect();
            let probe = linear(&tower.p("attn_pool.probe"), &weight, &bias);
            let heads = if arch.variant.pool_heads > 0 { arch.variant.pool_heads } else { arch.heads };
            let attended = attention(arch.width, heads, &[probe], &qkv).remove(0);
            let mut x = tower.linear("attn_pool.attn.out_proj", &attended);
            let more = tower.mlp("attn_pool.", &x, false, false);
            add(&mut x, more);
            x
        }
    }
}

/// Turns queries and keys of the patches.
fn rotate(arch: &Arch, rotary: Rotary, qkv: &mut [Row]) {
    let (w, d, grid) = (arch.width, arch.width / arch.heads, arch.grid);
    let first = arch.variant.tokens.count();
    for (index, row) in qkv[first..].iter_mut().enumerate() {
        let (y, x) = ((index / grid) as f64, (index % grid) as f64);
        let g = grid as f64;
        let [a, b] = match rotary {
            Rotary::Eva => [16.0 * y / g, 16.0 * x / g],
            Rotary::PerceptionEncoder => [x + 1.0, y + 1.0],
            Rotary::DinoV3 => [y, x].map(|t| 2.0 * std::f64::consts::PI * ((2.0 * t + 1.0) / g - 1.0)),
        };
        let base: f64 = if rotary == Rotary::DinoV3 { 100.0 } else { 10_000.0 };
        for head in row[..2 * w].chunks_mut(d) {
            for pair in 0..d / 2 {
                let i = pair % (d / 4);
                let angle = if pair < d / 4 { a } else { b } / base.powf(4.0 * i as f64 / d as f64);
                let (one, two) = if rotary == Rotary::DinoV3 { (pair, pair + d / 2) } else { (2 * pair, 2 * pair + 1) };
                let (p, q) = (head[one], head[two]);
                head[one] = p * angle.cos() - q * angle.sin();
                head[two] = q * angle.cos() + p * angle.sin();
            }
        }
    }
}

fn add(to: &mut Row, more: Row) {
    to.iter_mut().zip(more).for_each(|(t, m)| *t += m);
}

fn mean(rows: &[Row]) -> Row {
    (0..rows[0].len()).map(|i| rows.iter().map(|row| row[i]).sum::<f64>() / rows.len() as f64).collect()
}

/// The tokens before the patches, then the patches row by row, with positions.
fn stem(tower: &Tower<'_>, image: &[f32]) -> Vec<Row> {
    let arch = tower.arch;
    let variant = arch.variant;
    let (mut before, mut patches) = (Vec::new(), patches(tower, image));
    for name in ["class_embedding", "distillation_token"] {
        before.extend(Some(tower.p(name)).filter(|token| !token.is_empty()));
    }
    let positions = tower.rows("positional_embedding");
    let rows = match variant.positions {
        Positions::All => {
            before.iter_mut().zip(&positions).for_each(|(token, position)| add(token, position.clone()));
            &positions[before.len()..]
        }
        Positions::Patches | Positions::None => &positions[..],
    };
    patches.iter_mut().zip(rows).for_each(|(patch, position)| add(patch, position.clone()));
    let tokens: Vec<Row> = before.into_iter().chain(tower.rows("register_tokens")).chain(patches).collect();
    if variant.pre_norm { tokens.iter().map(|token| tower.norm("ln_pre", token)).collect() } else { tokens }
}

fn patches(tower: &Tower<'_>, image: &[f32]) -> Vec<Row> {
    let arch = tower.arch;
    let (patch, size) = (arch.patch, arch.image_size());
    let (kernel, bias) = (tower.p("conv1.weight"), tower.p("conv1.bias"));
    let mut tokens = Vec::new();
    for (py, px) in (0..arch.grid).flat_map(|y| (0..arch.grid).map(move |x| (y, x))) {
        let token = (0..arch.width).map(|w| {
            let mut sum = *bias.get(w).unwrap_or(&0.0);
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

/// Attention from the queries in `from` to the keys and values in `to`.
fn attention(w: usize, heads: usize, from: &[Row], to: &[Row]) -> Vec<Row> {
    let d = w / heads;
    let mut out = vec![vec![0.0; w]; from.len()];
    for head in 0..heads {
        let part = |row: &Row, which: usize| row[which * w + head * d..][..d].to_vec();
        for (i, row) in from.iter().enumerate() {
            let q = part(row, 0);
            let scores: Row = to.iter().map(|row| dot(&q, &part(row, 1)) / (d as f64).sqrt()).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let shares: Row = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = shares.iter().sum();
            for (share, row) in shares.iter().zip(to) {
                let v = part(row, 2);
                out[i][head * d..][..d].iter_mut().zip(v).for_each(|(o, v)| *o += share / total * v);
            }
        }
    }
    out
}

fn linear(x: &[f64], weight: &[f64], bias: &[f64]) -> Row {
    let biases = bias.iter().copied().chain(std::iter::repeat(0.0));
    weight.chunks(x.len()).zip(biases).map(|(row, b)| dot(x, row) + b).collect()
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
        Activation::Silu => x / (1.0 + (-x).exp()),
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
