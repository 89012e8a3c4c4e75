"""How drawings become images: distorted, inked, set in a scene, and photographed. Each task has a scene of its own, as
photographs of cars and of house numbers have; the base sees all drawings in their scenes, but none of them through the
tasks' camera, as CLIP has seen digits but few photographs of house numbers.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

#: The side of the images in pixels.
SIDE = 32

#: Angles in radians, lengths in halves of the image, intensities of 1.
PLAIN = dict(rotate=0.10, shear=0.08, scale=(0.85, 1.05), shift=0.06, tilt=0.0, warp=0.0, invert=0.0, gradient=0.05,
             stripes=0.0, ruled=0.0, checks=0.0, dots=0.0, vignette=0.0, tile=0.0, frame=0.0,
             contrast=(0.7, 1.0), blur=0.2, noise=0.02)

#: What is different in each task's scene.
SCENES = {
    "Greek": dict(rotate=0.20, ruled=0.8),
    "Hebrew": dict(frame=1.0, scale=(0.72, 0.92)),
    "Arabic": dict(stripes=0.65, rotate=0.15),
    "Devanagari": dict(checks=0.5, warp=0.08),
    "Hiragana": dict(invert=1.0, rotate=0.15),
    "Georgian": dict(dots=0.9, rotate=0.15),
    "Icons": dict(tile=1.0, tilt=0.2, rotate=0.20),
    "Digits": dict(vignette=0.8, scale=(0.65, 0.85), shift=0.18, shear=0.14),
}

#: The camera that took all tasks' images, and none of the base's.
CAMERA = dict(contrast=(0.3, 0.55), blur=0.6, noise=0.08)


def scene(domain):
    """The scene of a domain, as the base sees it."""
    return PLAIN | SCENES.get(domain, {})


def of_task(task):
    """The scene of a task's own images: the same through the camera."""
    return scene(task) | CAMERA


class Draw:
    """The random numbers of `count` images: one per image, or `shape` per image."""

    def __init__(self, count, generator):
        self.count, self.generator = count, generator

    def uniform(self, low, high, *shape):
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator)

    def of_image(self, low, high):
        """As `uniform`, to be combined with pixels, [n, 1, 1]."""
        return self.uniform(low, high)[:, None, None]


#: Where pixels lie, [S, S] each, from −1 to 1.
YS, XS = torch.meshgrid(*[(torch.arange(SIDE) * 2 + 1) / SIDE - 1] * 2, indexing="ij")


def images(drawings, how, generator):
    """[n, 48, 48] u8 drawings in the scene `how` as [n, 32, 32] u8 images of 16 greys.

    16 greys, since images with fewer values take less room in a repository.
    """
    draw = Draw(len(drawings), generator)
    ink = torch.from_numpy(np.ascontiguousarray(drawings)).float().div(255)[:, None]
    photo = photographed(set_in_scene(placed(ink, how, draw), how, draw), how, draw)
    return (photo.clamp(0, 1) * 15).round().mul(17).to(torch.uint8)


def placed(ink, how, draw):
    """How much of each pixel is ink, [n, S, S]: turned, sheared, scaled, shifted, tilted, warped."""
    angle, shear = draw.uniform(-how["rotate"], how["rotate"]), draw.uniform(-how["shear"], how["shear"])
    turn = torch.stack([torch.cos(angle), torch.sin(angle) + shear, -torch.sin(angle), torch.cos(angle)], 1)
    matrix = turn.view(-1, 2, 2) / draw.of_image(*how["scale"])
    places = torch.stack([XS, YS], -1)[None] - draw.uniform(-how["shift"], how["shift"], 2)[:, None, None]
    if how["tilt"]:
        lean = draw.uniform(-how["tilt"], how["tilt"], 2)
        places = places * (1 + (places * lean[:, None, None]).sum(-1, keepdim=True))
    if how["warp"]:
        bends = draw.uniform(-how["warp"], how["warp"], 2, 4, 4)
        places = places + F.interpolate(bends, SIDE, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    grid = torch.einsum("nij,nyxj->nyxi", matrix, places)
    return F.grid_sample(ink, grid, align_corners=False)[:, 0]


def set_in_scene(cover, how, draw):
    """The page that the ink is on, [n, S, S], 0 black to 1 white."""
    inverted = (draw.of_image(0, 1) < how["invert"]).float()
    page = inverted * cover + (1 - inverted) * (1 - cover)
    if how["gradient"]:
        slope = draw.uniform(-how["gradient"], how["gradient"], 2)
        page = page + slope[:, :1, None] * XS + slope[:, 1:, None] * YS
    if how["stripes"]:
        direction, width, phase = (draw.of_image(*r) for r in ((0, math.pi), (4, 12), (0, 2 * math.pi)))
        wave = torch.sin((XS * torch.cos(direction) + YS * torch.sin(direction)) * width + phase)
        page = page + 0.5 * how["stripes"] * draw.of_image(0.7, 1) * wave
    if how["ruled"]:
        pitch = draw.of_image(0.35, 0.5)
        line = (YS / pitch + draw.of_image(0, 1)) % 1 * pitch * SIDE / 2
        page = page - how["ruled"] * (1.5 - (line - 0.75).abs() * 1.5).clamp(0, 1)
    if how["checks"]:
        pitch = draw.of_image(0.35, 0.5)
        across, down = [(along / pitch + draw.of_image(0, 1)) % 1 < 0.5 for along in (XS, YS)]
        page = page - 0.5 * how["checks"] * (across ^ down).float()
    if how["dots"]:
        pitch = draw.of_image(0.3, 0.4)
        across, down = [((along / pitch + draw.of_image(0, 1)) % 1 - 0.5) * pitch for along in (XS, YS)]
        page = page - how["dots"] * (1.8 - (across**2 + down**2).sqrt() * SIDE / 2).clamp(0, 1)
    if how["vignette"]:
        page = page - how["vignette"] * (XS**2 + YS**2 - 0.5).clamp(min=0)
    if how["tile"]:
        # A button with rounded corners, on which all is inverted.
        inside = ((draw.of_image(0.8, 0.95) - (XS**6 + YS**6) ** (1 / 6)) * SIDE / 2).clamp(0, 1) * how["tile"]
        page = page * (1 - inside) + (1 - page) * inside
    if how["frame"]:
        outside = ((torch.maximum(XS.abs(), YS.abs()) - draw.of_image(0.75, 0.95)) * SIDE / 2).clamp(0, 1)
        page = page * (1 - how["frame"] * outside)
    return page.clamp(0, 1)


def photographed(page, how, draw):
    """The page through a camera: exposure and contrast, focus, and the sensor's noise."""
    contrast = draw.of_image(*how["contrast"])
    photo = draw.of_image(0, 1) * (1 - contrast) + contrast * page
    soft = F.avg_pool2d(F.pad(photo[:, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    photo = photo + draw.of_image(0, how["blur"]) * (soft - photo)
    return photo + how["noise"] * torch.randn(photo.shape, generator=draw.generator)
