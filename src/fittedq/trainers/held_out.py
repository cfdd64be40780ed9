"""Which iteration of a fitted method is kept: by rows that no fit has seen, without an environment."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import numpy as np

from fittedq.errors import UserError
from fittedq.types import Components

HELD_SHARE = 0.1
"""Of the rows of a dataset that are held out."""


class HeldOut(NamedTuple):
    """The iteration of the least Bellman error √mean (q(s, a) − y)² over rows held out, y = r + γ (1 − terminated)
    q(s', π(s')): how far q is from the value of its own policy.

    A median would be blind to rewards that are rare: q = 0 is right in most rows then. An iteration is given up for the
    newest once as many have followed as it took: it plans only half as far ahead, and a short-sighted q is easily
    consistent.
    """

    rows: np.ndarray
    """Their numbers, which no fit sees."""
    nets: Components | None = None
    """The components of that iteration; None before the first."""
    step: int = 0
    residual: float = math.inf

    @staticmethod
    def of(size: int, seed: int) -> HeldOut:
        """A tenth of so many rows, drawn by the seed."""
        count = int(HELD_SHARE * size)
        if not count:
            raise UserError(
                f"setting keep: found chosen, which holds a tenth of the rows out, and the data have {size}; expected "
                "average or last."
            )
        rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
        return HeldOut(np.sort(rng.choice(size, count, replace=False)))

    def seen(self, nets: Components, step: int, residual: float) -> HeldOut:
        """What is kept after an iteration with this residual."""
        kept = residual >= self.residual and step < 2 * self.step
        return self if kept else HeldOut(self.rows, jax.tree.map(np.array, nets), step, residual)

    def figures(self, newest: float, step: int) -> dict[str, float]:
        """What an iteration tells: its own residual, and how many iterations ago the chosen one was."""
        return {"held_out_residual": newest, "since_chosen": float(step - self.step)}

    def words(self, steps: int) -> str:
        """What the agent acts by."""
        return (
            f"the networks of iteration {self.step:,} of {steps:,}, of the least Bellman error, {self.residual:.3g}, "
            f"on {len(self.rows):,} rows held out"
        )
