"""Arithmetic of tasks: `0.3 * basis["MNIST"] - 0.2 * basis["Cars"]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Union

__all__ = ["Expression"]

#: A λ, or one for each group of parameters.
Scale = Union[float, "tuple[tuple[str, float], ...]"]

_PLAIN = re.compile(r"[A-Za-z0-9_./]+\Z")
_KEYWORDS = {"base", "merged", "all"}


def _times(scale: Scale, factor: float) -> Scale:
    if isinstance(scale, tuple):
        return tuple((group, value * factor) for group, value in scale)
    return scale * factor


class Expression:
    """A sum of scaled task vectors over the base; immutable. `str()` gives the task expression that every part of
    taskbasis reads: `MNIST@0.3 - Cars@0.2`."""

    __slots__ = ("terms", "_basis")

    #: Names and scaling coefficients (λ), in order: one number, or pairs of a group of parameters and its own. Names
    #: stand as expressions spell them.
    terms: "tuple[tuple[str, Scale], ...]"

    #: What stands for the basis that was asked for the tasks; None for names without one. No part of the value.
    _basis: object

    def __init__(self, terms: "tuple[tuple[str, Scale], ...]" = (), _basis: object = None) -> None:
        object.__setattr__(self, "terms", terms)
        object.__setattr__(self, "_basis", _basis)

    @staticmethod
    def task(name: str) -> "Expression":
        """One task with λ = 1. Any name can be a task's: it is quoted where it has to be."""
        if not _PLAIN.match(name) or name in _KEYWORDS:
            name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return Expression(((name, 1.0),))

    @staticmethod
    def merged() -> "Expression":
        """The plain sum of the basis vectors: the paper's task addition."""
        return Expression((("merged", 1.0),))

    @staticmethod
    def all() -> "Expression":
        """Every task recovered and summed."""
        return Expression((("all", 1.0),))

    def __reduce__(self) -> "tuple[type[Expression], tuple[object, ...]]":
        return Expression, (self.terms,)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("an expression does not change")

    def __add__(self, other: "Expression") -> "Expression":
        if not isinstance(other, Expression):
            return NotImplemented
        bases = [basis for basis in (self._basis, other._basis) if basis is not None]
        if len(bases) == 2 and bases[0] is not bases[1]:
            raise ValueError("these are tasks of two bases, and weights are made of one")
        return Expression(self.terms + other.terms, bases[0] if bases else None)

    def __sub__(self, other: "Expression") -> "Expression":
        return self + -other if isinstance(other, Expression) else NotImplemented

    def __neg__(self) -> "Expression":
        return self * -1.0

    def __mul__(self, factor: "Union[int, float, Mapping[str, float]]") -> "Expression":
        """Scaled by a number, or by one for each group of parameters: `basis["MNIST"] * {"attn": 0.4, "*": 0.3}`."""
        if isinstance(factor, Mapping):
            return self._grouped({str(group): float(value) for group, value in factor.items()})
        try:
            factor = float(factor)
        except (TypeError, ValueError):
            return NotImplemented
        return Expression(tuple((name, _times(value, factor)) for name, value in self.terms), self._basis)

    def _grouped(self, groups: "dict[str, float]") -> "Expression":
        if any(not isinstance(value, float) for _, value in self.terms):
            raise ValueError("a task that has groups already can be scaled by a number alone")
        terms = ((name, tuple((group, own * value) for group, own in groups.items())) for name, value in self.terms)
        return Expression(tuple(terms), self._basis)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Union[int, float]) -> "Expression":
        return self * (1.0 / divisor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __str__(self) -> str:
        text = ""
        for name, value in self.terms:
            if isinstance(value, tuple):
                groups = ", ".join(f"{group}: {own!r}" for group, own in value)
                text += f"{' + ' if text else ''}{name}@{{{groups}}}"
                continue
            if text:
                text += " - " if value < 0 else " + "
            elif value < 0:
                text = "-"
            text += name if abs(value) == 1 else f"{name}@{abs(value)!r}"
        return text or "base"

    def __repr__(self) -> str:
        return f"Expression({str(self)!r})"
