"""How drawings become images: distorted, inked, and set in a scene. Each task has a scene of its own, as photographs of
cars and of house numbers have; the base sees all drawings in a plain one, as CLIP sees everything on web pages.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

#: The side of the images in pixels.
SIDE = 32

#: Angles in radians, lengths in halves of the image, intensities of 1.
PLAIN = dict(rotate=0.10, shear=0.08, scale=(0.85, 1.05), shift=0.06, tilt=0.0, warp=0.0, invert=0.0,
             contrast=(0.7, 1.0), gradient=0.05, stripes=0.0, bars=0, blur=0.2, noise=0.02)

#: What is different in each task's scene.
SCENES = {
    "Greek": dict(rotate=0.65, shear=0.3, scale=(0.7, 1.0)),
    "Hebrew": dict(noise=0.22, contrast=(0.35, 0.7)),
    "Arabic": dict(stripes=0.55, gradient=0.3, contrast=(0.6, 1.0), rotate=0.2),
    "Devanagari": dict(warp=0.24, scale=(0.75, 1.0)),
    "Hiragana": dict(scale=(0.6, 0.85), shift=0.15, blur=0.6, invert=1.0),
    "Georgian": dict(bars=4, rotate=0.2),
    "Icons": dict(tilt=0.4, rotate=0.3, gradient=0.4, contrast=(0.4, 0.9)),
    "Digits": dict(scale=(0.6, 1.0), shear=0.5, rotate=0.4, noise=0.1, shift=0.15),
}

#: What all tasks' images have more of than the base's, as photographs have that CLIP's captions are not about.
COMMON = dict(noise=0.14, rotate=0.25, blur=0.5)


def of_task(task, strength):
    """The scene of a task's own images: `scene`, and what all tasks have in common."""
    how = scene(task, strength)
    return {key: max(value, COMMON[key]) if key in COMMON else value for key, value in how.items()}


def scene(task, strength):
    """A scene between the plain one (0) and the task's own (1)."""
    own = {**PLAIN, **SCENES.get(task, {})}

    def between(a, b):
        return tuple(between(*pair) for pair in zip(a, b)) if isinstance(a, tuple) else a + strength * (b - a)

    return {key: between(PLAIN[key], own[key]) for key in PLAIN}


def images(drawings, how, draw):
    """[n, 48, 48] u8 drawings in the scene `how` as [n, 32, 32] u8 images of 16 greys; `draw` is the random generator.

    16 greys, since images with fewer values take less room in a repository.
    """
    count = len(drawings)
    ink = torch.from_numpy(np.ascontiguousarray(drawings)).float().div(255)[:, None]

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(count, *shape, generator=draw)

    # Where each pixel of the image lies in the drawing.
    angle, shear = uniform(-how["rotate"], how["rotate"]), uniform(-how["shear"], how["shear"])
    size = uniform(*how["scale"])
    turn = torch.stack([torch.cos(angle), torch.sin(angle) + shear, -torch.sin(angle), torch.cos(angle)], 1)
    matrix = turn.view(count, 2, 2) / size[:, None, None]
    shift = uniform(-how["shift"], how["shift"], 2)
    ys, xs = torch.meshgrid(*[(torch.arange(SIDE) * 2 + 1) / SIDE - 1] * 2, indexing="ij")
    places = torch.stack([xs, ys], -1)[None] - shift[:, None, None]
    if how["tilt"] > 0:
        lean = uniform(-how["tilt"], how["tilt"], 2)
        places = places * (1 + (places * lean[:, None, None]).sum(-1, keepdim=True))
    if how["warp"] > 0:
        bends = (torch.rand(count, 2, 4, 4, generator=draw) * 2 - 1) * how["warp"]
        places = places + F.interpolate(bends, SIDE, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    grid = torch.einsum("nij,nyxj->nyxi", matrix, places)
    cover = F.grid_sample(ink, grid, align_corners=False)[:, 0]

    if how["bars"] >= 1:
        for _ in range(round(how["bars"])):
            direction, away = uniform(0, math.pi), uniform(-0.7, 0.7)
            distance = xs * torch.cos(direction)[:, None, None] + ys * torch.sin(direction)[:, None, None]
            distance = (distance - away[:, None, None]).abs()
            there = (uniform(0, 1) < 0.8).float()[:, None, None]
            # Half the bars are ink, half are paper.
            ink_or_paper = (uniform(0, 1) < 0.5).float()[:, None, None]
            bar = (1.5 - distance * SIDE / 2).clamp(0, 1) * there
            cover = cover * (1 - bar) + bar * ink_or_paper

    contrast = uniform(*how["contrast"])[:, None, None]
    dark = (uniform(0, 1)[:, None, None] * (1 - contrast))
    inverted = (uniform(0, 1) < how["invert"]).float()[:, None, None]
    level = inverted * cover + (1 - inverted) * (1 - cover)
    page = dark + contrast * level
    if how["gradient"] > 0:
        slope = uniform(-how["gradient"], how["gradient"], 2)
        page = page + slope[:, :1, None] * xs + slope[:, 1:, None] * ys
    if how["stripes"] > 0:
        direction, width, phase = uniform(0, math.pi), uniform(4, 12), uniform(0, 2 * math.pi)
        along = xs * torch.cos(direction)[:, None, None] + ys * torch.sin(direction)[:, None, None]
        wave = torch.sin(along * width[:, None, None] + phase[:, None, None])
        page = page + 0.5 * how["stripes"] * uniform(0.3, 1)[:, None, None] * wave
    if how["blur"] > 0:
        soft = F.avg_pool2d(F.pad(page[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
        share = uniform(0, how["blur"])[:, None, None]
        page = (1 - share) * page + share * soft
    page = page + how["noise"] * torch.randn(count, SIDE, SIDE, generator=draw)
    return (page.clamp(0, 1) * 15).round().mul(17).to(torch.uint8)
