"""The image tower, by open_clip's names and with its arithmetic, and how it is trained."""

import math

import torch
import torch.nn.functional as F
from torch import nn

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Visual(nn.Module):
    """CLIP's vision transformer: [n, 3, S, S] preprocessed pixels to [n, embedding]."""

    def __init__(self, image=32, patch=8, width=128, layers=3, embedding=64):
        super().__init__()
        scale = width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn((image // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(Block(width, width // 64) for _ in range(layers))
        self.proj = nn.Parameter(scale * torch.randn(width, embedding))

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj


def pixels(images):
    """[n, S, S] u8 greys as open_clip's evaluation transform leaves them, [n, 3, S, S]."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (images[:, None].float() / 255 - mean) / std


def state(visual):
    """A copy of the weights by the names of files: visual.conv1.weight, …"""
    return {f"visual.{name}": value.detach().clone().contiguous() for name, value in visual.state_dict().items()}


def load(visual, weights):
    visual.load_state_dict({name.removeprefix("visual."): value for name, value in weights.items()})
    return visual.eval()


def optimisers(visual, more, rate, muon):
    """AdamW, and, where `muon` is a rate, Muon for the blocks' matrices, which a tower this small learns faster by."""
    matrices = [p for name, p in visual.named_parameters() if p.ndim == 2 and "resblocks" in name]
    rest = [p for name, p in visual.named_parameters() if not (p.ndim == 2 and "resblocks" in name)] + list(more)
    if muon:
        return [torch.optim.Muon(matrices, lr=muon, weight_decay=0.0),
                torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))]


def train(visual, head, batches, steps, rate, *, muon=None, more=(), each=lambda step, loss: None):
    """A tenth of the steps warms the rate up, and a cosine ends it. `head` makes logits of normalised embeddings;
    `more` is trained too; `each` is called after every step with the running mean of the loss."""
    visual.train()
    used, mean = optimisers(visual, more, rate, muon), None
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in used]
    for step in range(steps):
        share = min(1, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for optimiser, of_groups in zip(used, rates):
            for group, of_group in zip(optimiser.param_groups, of_groups):
                group["lr"] = of_group * share
        images, labels = next(batches)
        loss = F.cross_entropy(head(F.normalize(visual(pixels(images)), dim=-1)), labels)
        visual.zero_grad(set_to_none=True)
        for one in more:
            one.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        for optimiser in used:
            optimiser.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        each(step + 1, mean)
    return visual.eval()


@torch.no_grad()
def embed(visual, images):
    return torch.cat([visual(pixels(part)) for part in images.split(500)])


def correct(visual, images, labels, weight):
    """How many images of a task the head [classes, embedding] tells right."""
    logits = F.normalize(embed(visual, images), dim=-1) @ weight.T
    return int((logits.argmax(1) == labels).sum())
