"""The certified maximum as a maximizer that the fitted methods can take."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.host import to_host
from fittedq.approx.networks import QNetwork
from fittedq.arrays import Arr
from fittedq.maximize.base import AbstractMaximizer, Effort, Solution, misfit, proven
from fittedq.maximize.proofs.bounds import unproven
from fittedq.maximize.proofs.certified import certified
from fittedq.slots import POSITIVE, SECONDS


class CertifiedArgmax(AbstractMaximizer[QNetwork]):
    """max_{a ∈ A(s)} min_j q_j(s, a) of a neural critic, on the host, to `tol` · max(1, |value|).

    A state gets `state_seconds` at most, the batch `seconds`; the bound holds even where they end a search.
    Milliseconds a state, where local maximizers take microseconds: for small data, for a share of it (B_opt), or for
    acting.
    """

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = True
    quick: ClassVar[bool] = False
    tol: float = eqx.field(static=True, default=1e-2, metadata=POSITIVE)
    state_seconds: float = eqx.field(static=True, default=1.0, metadata=SECONDS)
    seconds: float | None = eqx.field(static=True, default=None, metadata=SECONDS)

    def __call__(
        self,
        critic: QNetwork,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del key
        return certified(
            to_host(critic),
            np.asarray(obs),
            action_set,
            tol=self.tol,
            time_limit=self.seconds,
            state_time_limit=self.state_seconds,
            warm_start=None if starts is None else np.asarray(starts),
        )


@proven.register
def _(critic: QNetwork, action_set: AbstractActionSet, effort: Effort) -> AbstractMaximizer | None:
    del critic, action_set
    return CertifiedArgmax(**effort.named("tol", "seconds", "state_seconds"))


@misfit.register
def _(maximizer: CertifiedArgmax, critic: QNetwork, action_set: AbstractActionSet) -> str | None:
    del maximizer, action_set
    return unproven(critic)
