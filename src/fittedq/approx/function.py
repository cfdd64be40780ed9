"""Any function of (s, a) as a critic: what a maximizer takes where there is no network."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.arrays import Arr, Index
from fittedq.types import AbstractCritic


class FunctionCritic(AbstractCritic):
    """q(s, a) = function(s, a): [b, s], [b, m] → [b], traceable by JAX, each row on its own.

    Give a pytree that holds its arrays (`jax.tree_util.Partial(function, arrays)`, an Equinox module): under `jit` its
    arrays are then arguments, not constants, and another function of the same shapes needs no new compilation.
    """

    function: Callable[[Arr, Arr], Arr]
    action_set: AbstractActionSet
    has_gradient: ClassVar[bool] = True

    def __init__(self, function: Callable[[Arr, Arr], Arr], action_set: AbstractActionSet):
        self.function, self.action_set = function, action_set

    @property
    def size(self) -> int:
        return 1

    def subset(self, indices: Index) -> FunctionCritic:
        """Itself: there is one."""
        del indices
        return self

    def __call__(
        self, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray | None = None
    ) -> Float[Arr, "1 b"]:
        del key
        return self.function(obs, action)[None]
