"""The compiled learner: many updates in a call."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.approx.host import HostCopy, to_host
from fittedq.approx.packing import Packing
from fittedq.arrays import Arr, strong
from fittedq.template.fqi import FQI, LearnerState
from fittedq.types import DrawnRows, HostPolicy, Transition

MEASURED_ROWS = 2_000
"""Newest transitions that a method's own measures see."""


def measured(
    algorithm: AbstractAlgorithm, state: LearnerState, rows: np.ndarray, stride: int, obs_size: int, seed: int
) -> tuple[LearnerState, dict[str, float]]:
    """The state with what `AbstractAlgorithm.measure` sets, and its figures; drawn from the step, not from a stream."""
    key = jax.random.fold_in(jax.random.key_data(jax.random.key(seed)), int(state.step))
    seen = Transition.unpack(rows, obs_size, rows.shape[1] - Transition.width(obs_size, 0))
    nets, figures = algorithm.measure(state.nets, seen, stride, key)
    return eqx.tree_at(lambda state: state.nets, state, nets), figures


MAX_UNROLLED = 4
"""Longest pattern of delayed updates that is compiled without branches."""


class Learner:
    """`FQI.learn`, compiled for K batches a call.

    Between calls the state is a few device buffers (`Packing`), donated each time: no tree is rebuilt in the hot loop.
    A row has further `columns` where it was drawn with them (`DrawnRows`).
    """

    def __init__(self, fqi: FQI, state: LearnerState, obs_size: int, action_size: int, columns: tuple[str, ...] = ()):
        self._fqi = fqi
        self._packing = Packing(state)
        self._buffers = self._packed(state)
        self._host_policy = HostCopy(self._packing, self._buffers, lambda state: state.nets.policy)
        self._policy_every = min((u.every for u in fqi.updates if u.component == "policy"), default=1)
        self._policy_count = self._count = int(state.step)

        self.compilations = 0
        """How many programs were compiled so far: one per shape, and per phase of delayed updates that it starts in."""

        self._period = fqi.period if fqi.period <= MAX_UNROLLED else 1
        """Programs are compiled for each phase of the period, and loops unrolled over it, so that none branches."""

        width = Transition.width(obs_size, action_size)

        def run(buffers: list[Array], rows: Array, phase: int | None) -> tuple[list[Array], Array | None]:
            self.compilations += 1  # runs when JAX traces, which it does once per program

            def learn(state: LearnerState, rows: Array) -> tuple[LearnerState, Array | None]:
                errors: list[Arr] = []
                for index in range(rows.shape[0]):
                    now = None if phase is None else (phase + index) % self._period
                    drawn = DrawnRows.unpack(rows[index], width, columns)
                    state = fqi.learn(state, Transition.unpack(rows[index], obs_size, action_size), now, drawn)
                    error = fqi.errors(state)
                    errors += [] if error is None else [error]
                return state, jnp.stack(errors) if errors else None

            state = self._packing.unpack(buffers)
            groups, rest = divmod(rows.shape[0], self._period)
            if groups > 1:
                grouped = rows[: groups * self._period].reshape(groups, self._period, *rows.shape[1:])
                state, errors = jax.lax.scan(learn, state, grouped)
                state, last = learn(state, rows[rows.shape[0] - rest :])
                if errors is not None:
                    errors = errors.reshape(-1, errors.shape[-1])
                    errors = errors if last is None else jnp.concatenate([errors, last])
            else:
                state, errors = learn(state, rows)
            return self._packing.pack(strong(state)), errors

        self._run = jax.jit(run, donate_argnums=0, static_argnums=2)

    def learn(self, rows: np.ndarray) -> Array | None:
        """One iteration per batch of `rows` [K, b, width]; returns before it is done. The errors [K, b] of their rows,
        where these have weights."""
        # A period too long to unroll is left to branches in the program.
        phase = (self._count + 1) % self._period if self._period == self._fqi.period else None
        self._buffers, errors = self._run(self._buffers, rows, phase)
        self._count += rows.shape[0]
        return errors

    @property
    def group(self) -> int:
        """Batches that are best learned from in one call: those of a delayed policy's period, where it is short."""
        return self._policy_every if self._policy_every <= MAX_UNROLLED else 1

    def policy_due(self, batches: int) -> bool:
        """Whether the last of so many more batches updates the policy."""
        return (self._count + batches) % self._policy_every == 0

    def wait(self) -> None:
        """Return when the last call is done."""
        jax.block_until_ready(self._buffers)

    def host_state(self) -> LearnerState:
        """The state with NumPy leaves."""
        # Copies: a view of a device buffer would keep it from being donated.
        return self._packing.unpack([np.array(buffer) for buffer in self._buffers])

    @property
    def state(self) -> LearnerState:
        return jax.device_put(self.host_state())

    @state.setter
    def state(self, state: LearnerState) -> None:
        self._buffers, self._count = self._packed(state), int(state.step)
        self._host_policy.refresh(self._buffers)
        self._policy_count = self._count

    def _packed(self, state: LearnerState) -> list[Array]:
        # `device_put` may alias NumPy's memory, which must not be donated.
        return [jnp.array(buffer, copy=True) for buffer in self._packing.pack(to_host(state))]

    def host_policy(self) -> HostPolicy:
        """The newest policy, for acting in NumPy: always the same object, refreshed.

        Waits for the learner, unless the policy was not due for an update since: then acting goes on meanwhile.
        """
        if self._count // self._policy_every > self._policy_count // self._policy_every:
            self._host_policy.refresh(self._buffers)
            self._policy_count = self._count
        return self._host_policy.view

    def metrics(self) -> dict[str, float]:
        return self._fqi.logs(self.host_state())
