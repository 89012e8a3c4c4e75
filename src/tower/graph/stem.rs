//! Pixels to the residual stream.

use super::PIXELS;
use super::nodes::Graph;
use crate::onnx::emit::{Attribute, int};
use crate::tower::arch::{
    Arch, CLASS_EMBEDDING, DISTILLATION_TOKEN, PATCH_BIAS, PATCH_EMBEDDING, POSITIONAL_EMBEDDING, REGISTER_TOKENS,
};
use crate::tower::variant::Positions;

impl Graph {
    /// Pixels to the residual stream: patches, the tokens before them, positions, and `ln_pre` where there is one.
    pub(super) fn embed_patches(&mut self, arch: &Arch) -> String {
        let patches = self.patches(arch);
        let batch = self.node("batch", "Shape", &[PIXELS], [Attribute::Int("start", 0), Attribute::Int("end", 1)]);
        let x = self.with_tokens(arch, &batch, patches);
        let x = self.reshape("stream", &x, &[-1, int(arch.width)]);
        if arch.variant.pre_norm { self.layer_norm("ln_pre", &x, "visual.ln_pre") } else { x }
    }

    /// The patches, `[batch, patches, width]`.
    fn patches(&mut self, arch: &Arch) -> String {
        let (w, patch, patches) = (int(arch.width), int(arch.patch), int(arch.grid * arch.grid));
        let bias = if arch.variant.patch_bias { PATCH_BIAS } else { "" };
        if let Some(layout) = self.layout(PATCH_EMBEDDING) {
            let parameters = [PATCH_EMBEDDING, bias];
            let x = self.own_patches("conv1", PIXELS, parameters, layout, [arch.patch, arch.grid]);
            return self.reshape("patches", &x, &[-1, patches, w]);
        }
        let strides =
            [Attribute::Ints("kernel_shape", vec![patch, patch]), Attribute::Ints("strides", vec![patch, patch])];
        let inputs = [PIXELS, PATCH_EMBEDDING, bias];
        let inputs = if bias.is_empty() { &inputs[..2] } else { &inputs[..] };
        let x = self.node("conv1", "Conv", inputs, strides);
        let x = self.reshape("patches", &x, &[-1, w, patches]);
        self.node("patches.transposed", "Transpose", &[&x], [Attribute::Ints("perm", vec![0, 2, 1])])
    }

    /// The patches with positions, after the tokens before them: `[batch, tokens, width]`.
    fn with_tokens(&mut self, arch: &Arch, batch: &str, patches: String) -> String {
        let (tokens, positions) = (arch.variant.tokens, arch.variant.positions);
        let mut before = Vec::new();
        if tokens.class {
            before.push(self.repeated("class_token", CLASS_EMBEDDING, batch, [1, arch.width]));
        }
        if tokens.distillation {
            before.push(self.repeated("distillation_token", DISTILLATION_TOKEN, batch, [1, arch.width]));
        }
        let registers = (tokens.registers > 0)
            .then(|| self.repeated("registers", REGISTER_TOKENS, batch, [tokens.registers, arch.width]));
        let add = |graph: &mut Self, x: &str| graph.node("positions", "Add", &[x, POSITIONAL_EMBEDDING], []);
        match positions {
            Positions::All => {
                let x = self.joined("tokens", &before, &patches);
                let x = add(self, &x);
                match registers {
                    None => x,
                    Some(registers) => {
                        self.after_first("registers.in", &x, before.len(), arch.grid * arch.grid, &registers)
                    }
                }
            }
            Positions::Patches | Positions::None => {
                before.extend(registers);
                let x = if positions == Positions::None { patches } else { add(self, &patches) };
                self.joined("tokens", &before, &x)
            }
        }
    }

    /// `[tokens, width]` or `[width]` once per image: `[batch, tokens, width]`.
    pub(super) fn repeated(&mut self, name: &str, parameter: &str, batch: &str, [tokens, width]: [usize; 2]) -> String {
        let each = self.constant(&format!("{name}.extents"), &[2], &[int(tokens), int(width)]);
        let shape = self.node(&format!("{name}.shape"), "Concat", &[batch, &each], [Attribute::Int("axis", 0)]);
        self.node(name, "Expand", &[parameter, &shape], [])
    }

    /// Sequences one after the other.
    fn joined(&mut self, name: &str, before: &[String], last: &str) -> String {
        if before.is_empty() {
            return last.to_owned();
        }
        let inputs: Vec<&str> = before.iter().map(String::as_str).chain([last]).collect();
        self.node(name, "Concat", &inputs, [Attribute::Int("axis", 1)])
    }

    /// `more` between the first tokens of `x` and the others.
    fn after_first(&mut self, name: &str, x: &str, first: usize, others: usize, more: &str) -> String {
        let at = |part: &str| format!("{name}.{part}");
        let zero = self.constant(&at("0"), &[1], &[0]);
        let first_end = self.constant(&at("first"), &[1], &[int(first)]);
        let end = self.constant(&at("end"), &[1], &[int(first + others)]);
        let axis = self.constant(&at("axis"), &[1], &[1]);
        let head = self.node(&at("before"), "Slice", &[x, &zero, &first_end, &axis], []);
        let tail = self.node(&at("after"), "Slice", &[x, &first_end, &end, &axis], []);
        self.node(name, "Concat", &[&head, more, &tail], [Attribute::Int("axis", 1)])
    }
}
