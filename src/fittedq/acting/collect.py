"""Collect transitions from an environment into a dataset: uniform actions, policies with noise, or a mixture."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np

from fittedq.acting.noise import explore
from fittedq.actions.base import AbstractActionSet
from fittedq.data.dataset import Writer
from fittedq.envs.gym import GymSource
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.errors import UserError
from fittedq.settings import MOST_SEED, real, whole
from fittedq.types import Transition

Policy = Callable[[np.ndarray], np.ndarray] | None
"""obs [b, s] → action [b, m] in the environment's units; None draws uniformly from the box."""

MOST_FLOAT = float(np.finfo(np.float32).max)
BATCH, BATCH_SECONDS = 100, 1.0
"""A batch ends after so many steps or so long: what a stop waits for, and all that a process that is killed loses."""


def collect(
    env: AnyEnv | AbstractPlant,
    steps: int,
    writer: Writer,
    *,
    policies: Sequence[Policy] = (None,),
    noise: float = 0.0,
    epsilon: float = 0.0,
    seed: int = 0,
) -> Generator[int, None, None]:
    """a ~ U(A) with probability ε, else Π_A(π(s) + σ · half_width · η) with η ~ N(0, I); append `steps` transitions.

    Every few transitions it yields how many were appended. A caller that stops early closes the generator, and then
    calls the writer's `cut` and `finish`, as after the end. Episode e follows `policies[e mod n]`. `noise` is σ. The
    writer takes the environment's action set. Equal seeds give equal data where the environment is deterministic given
    its seed.
    """
    steps, seed = whole(steps, "steps", 1), whole(seed, "seed", high=MOST_SEED)
    noise = real(noise, "noise", "a finite number of at least 0, in half-widths of the box", high=MOST_FLOAT)
    epsilon = real(epsilon, "epsilon", "a share between 0 and 1", high=1)
    if not policies:
        raise UserError("policies: found none, expected at least one.")
    source = resolve(env).source(seed=seed)
    try:
        if source.n_envs != 1:
            raise UserError(
                f"environment {source.label}: found {source.n_envs} environments in one, expected a single one: the "
                "rows of a dataset follow one another."
            )
        writer.declare(source.action_set)
        yield from _collect(source, steps, writer, policies, noise, epsilon, seed)
    finally:
        source.close()


def _collect(
    source: GymSource, steps: int, writer: Writer, policies: Sequence[Policy], noise: float, epsilon: float, seed: int
) -> Iterator[int]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))
    action_set, episode, taken = source.action_set, 0, 0
    while taken < steps:
        batch: list[Transition] = []
        until = time.monotonic() + BATCH_SECONDS
        try:
            while len(batch) < min(BATCH, steps - taken) and time.monotonic() < until:
                obs = source.obs
                action = act(policies[episode % len(policies)], obs, action_set, noise, epsilon, rng)
                step = source.step(action)
                if step.valid[0]:
                    batch.append(Transition(obs, action, step.reward, step.next_obs, step.terminated, step.truncated))
                episode += len(step.returns)
        finally:
            # Also what came before a failure of the environment.
            if batch:
                writer.append(Transition(*(np.concatenate(column) for column in zip(*batch, strict=True))))
        taken += len(batch)
        yield taken


def act(
    policy: Policy,
    obs: np.ndarray,
    action_set: AbstractActionSet,
    noise: float,
    epsilon: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """One exploring action per row of `obs`, as `collect` takes them."""
    shape = (len(obs), action_set.size)
    if policy is None or (epsilon and rng.random() < epsilon):
        unit = rng.uniform(-1, 1, shape).astype(np.float32)
        return np.asarray(action_set.project(action_set.from_unit(unit), obs))
    action = np.asarray(policy(obs), np.float32)
    if action.shape != shape:
        raise UserError(
            f"policy: found an action of shape {action.shape} for observations of shape {obs.shape}, expected {shape}."
        )
    eta = noise * rng.standard_normal(shape, np.float32)
    return np.asarray(explore(action, eta.astype(np.float32), action_set, obs))
