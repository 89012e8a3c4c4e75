"""Three figures; they need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._basis import Basis

__all__ = ["accuracy", "coefficients", "switch_latency"]


def coefficients(basis: Basis) -> Any:
    """The recovery table [M, T] as a heat map. Returns a matplotlib figure."""
    from matplotlib.figure import Figure

    table = basis.coefficients
    most = float(np.nanmax(np.abs(table))) or 1.0
    figure = Figure(figsize=(1.5 + 0.5 * table.shape[1], 1.5 + 0.4 * table.shape[0]), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_xticks(range(len(basis.tasks)), basis.tasks, rotation=60, ha="right")
    axes.set_yticks(range(basis.vectors), [f"s{m}" for m in range(basis.vectors)])
    figure.colorbar(image, label="coefficient")
    return figure


def accuracy(accuracies: "Mapping[str, Sequence[float]]", lambdas: "Sequence[float]") -> Any:
    """Accuracy over the scaling coefficient λ, one line per task. Returns a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for task, values in accuracies.items():
        axes.plot(lambdas, [100 * value for value in values], label=task)
    axes.set_xlabel("scaling coefficient λ")
    axes.set_ylabel("accuracy (%)")
    axes.legend()
    return figure


def switch_latency(milliseconds: "Sequence[float]") -> Any:
    """How switch latencies are distributed, with p50, p95 and p99. Returns a matplotlib figure."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.hist(milliseconds, bins=min(50, max(5, len(milliseconds) // 5)))
    for percent in (50, 95, 99):
        value = float(np.percentile(milliseconds, percent))
        axes.axvline(value, linestyle="--", color="black", linewidth=0.8)
        axes.annotate(f"p{percent} {value:.1f} ms", (value, axes.get_ylim()[1]), rotation=90, va="top", ha="right")
    axes.set_xlabel("task named to first embedding (ms)")
    axes.set_ylabel("switches")
    return figure
