"""Position tables resized by PyTorch, as src/tower/positions.rs tests have them: prints Rust.

python3 tests/support/positions.py   (torch 2.15)
"""

import math

import torch
from torch.nn.functional import interpolate

# What timm, open_clip and DINOv2 with registers ask for; transformers; and DINOv2's own code without registers.
CONVENTIONS = {
    "Antialiased": lambda grid, _: dict(size=(grid, grid), antialias=True),
    "Plain": lambda grid, _: dict(size=(grid, grid)),
    "DinoV2": lambda grid, old: dict(scale_factor=(float(grid + 0.1) / old,) * 2),
}


def table(grid):
    """Values that every test can compute: [grid², 1]."""
    return torch.tensor([math.sin(i * i * 0.37) for i in range(grid * grid)], dtype=torch.float32)


def main():
    for name, how in CONVENTIONS.items():
        for old, grid in [(4, 3), (3, 5), (37, 16)]:
            rows = table(old).reshape(1, 1, old, old)
            new = interpolate(rows, mode="bicubic", **how(grid, old)).flatten()
            assert len(new) == grid * grid
            # Of large tables the first, the last and some between.
            every = 1 if grid < 10 else 51
            values = ", ".join(f"{value:.7}" for value in new[::every].tolist())
            print(f"(PositionResampling::{name}, {old}, {grid}, &[{values}]),")


main()
