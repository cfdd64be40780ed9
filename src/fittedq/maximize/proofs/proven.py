"""The certified maximum as a maximizer that the fitted methods can take."""

from __future__ import annotations

import equinox as eqx
import numpy as np
from jaxtyping import Float

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.host import to_host
from fittedq.approx.networks import QNetwork
from fittedq.arrays import Arr
from fittedq.errors import UserError
from fittedq.maximize.base import Solution
from fittedq.maximize.proofs.certified import certified
from fittedq.types import AbstractCritic


class CertifiedArgmax(eqx.Module):
    """max_{a ∈ A(s)} min_j q_j(s, a) of a neural critic, on the host, to `tol` · max(1, |value|).

    A state gets `state_seconds` at most; the bound holds even where they end its search. Milliseconds a state, where
    local maximizers take microseconds: for small data, for a share of it (B_opt), or for acting.
    """

    tol: float = eqx.field(static=True, default=1e-2)
    state_seconds: float = eqx.field(static=True, default=1.0)

    def __call__(
        self,
        critic: AbstractCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
    ) -> Solution:
        if not isinstance(critic, QNetwork):
            raise UserError(
                f"setting maximizer: found certified with a critic of type {type(critic).__name__}, expected a "
                "network; take maximizer=auto."
            )
        return certified(
            to_host(critic),
            np.asarray(obs),
            action_set,
            tol=self.tol,
            state_time_limit=self.state_seconds,
            warm_start=None if starts is None else np.asarray(starts),
        )
