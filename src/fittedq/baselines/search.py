"""PID gains by trying them: a search over episodes in an environment, or in a model of the plant."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from fittedq.acting.episodes import AbstractController, Memory, returns_at_once
from fittedq.baselines.pid import PID
from fittedq.baselines.step_response import FirstOrderDelay, step_response
from fittedq.diagnose.control import Tracked
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.errors import UserError
from fittedq.settings import whole

SEED = 2**30
"""Added to the seed: what gains are chosen by is not what they are judged by."""
LONGEST_EPISODE = 5_000
"""Samples of an episode for a step response."""
FIRST_STEP = 0.7
"""Of the search, in the logarithm of each gain: a factor of 2."""


class Searched(NamedTuple):
    """What a search found, and from where it came."""

    pid: PID
    mean: float
    first: float
    """The mean return of the gains that the search began with."""
    episodes: int
    """All that were played."""


def mean_return(controller: AbstractController[Memory], plant: AbstractPlant, episodes: int, seed: int) -> float:
    """Over episodes that nothing is judged by; side by side where the plant is compiled."""
    if plant.compiled:
        return float(returns_at_once(controller, plant.env, episodes, seed + SEED).mean())
    return float(controller.evaluate(plant, episodes, seed + SEED).mean())


def search(start: PID, env: AnyEnv | AbstractPlant, *, tries: int = 60, episodes: int = 10, seed: int = 0) -> Searched:
    """argmax over the gains that are not 0 of the mean return of `episodes`, the same for each of about `tries`.

    By Nelder and Mead's simplex in the gains' logarithms, so that no gain changes its sign. A local search: it ends
    near `start`, which a tuning rule gives. Source: Nelder & Mead 1965.
    """
    from scipy.optimize import minimize

    tries, episodes = whole(tries, "tries", 1), whole(episodes, "episodes", 1)
    plant = resolve(env)
    names = [name for name in ("kp", "ki", "kd") if getattr(start, name) != 0]
    if not names:
        raise UserError("search: found a PID whose gains are all 0; expected one from a tuning rule, or of your own.")
    first = np.array([getattr(start, name) for name in names])

    def at(factors: np.ndarray) -> PID:
        gains = (first * np.exp(np.clip(factors, -20, 20))).tolist()
        return dataclasses.replace(start, **dict(zip(names, gains, strict=True)))

    scores: dict[tuple[float, ...], float] = {}

    def loss(factors: np.ndarray) -> float:
        mean = mean_return(at(factors), plant, episodes, seed)
        scores[tuple(factors.tolist())] = mean
        return -mean

    corner = np.zeros(len(names))
    simplex = np.concatenate([corner[None], FIRST_STEP * np.eye(len(names))])
    options = {"initial_simplex": simplex, "maxfev": tries, "xatol": 0.02, "fatol": np.inf}
    minimize(loss, corner, method="Nelder-Mead", options=options)
    best = max(scores, key=scores.__getitem__)
    return Searched(at(np.asarray(best)), scores[best], scores[tuple(corner.tolist())], len(scores) * episodes)


def tuned_pid(
    env: AnyEnv | AbstractPlant,
    tracked: Tracked,
    *,
    dt: float = 1.0,
    tries: int = 120,
    episodes: int = 10,
    seed: int = 0,
) -> Searched:
    """A PID controller of the only action: a PI controller by SIMC from a step response, then `search` over the
    episodes' returns, half of the tries without a derivative, half from there with one (T_d = θ at first).

    The step goes from the middle of the action's limits a quarter of their distance upwards, half an episode each.
    `dt` is the sample time in seconds.
    """
    plant = resolve(env)
    box = plant.action_set
    if box.size != 1:
        raise UserError(
            f"found {box.size} actions, expected one; tune `Loops` one loop after another, in a file of your own."
        )
    middle, quarter = np.asarray(box.center, np.float32), np.asarray(box.half_width, np.float32) / 2
    samples = _episode_length(plant, middle, seed)
    how = {"rest": samples // 2, "samples": samples - samples // 2, "dt": dt, "seed": seed}
    time, y, before = step_response(plant, tracked, before=middle, after=middle + quarter, **how)
    told = FirstOrderDelay.of_step(time, y, before, float(quarter[0])).sampled(dt)
    start = PID(*told.simc(), tracked=tracked, low=box.low[0], high=box.high[0], dt=dt, bias=float(middle[0]))
    without = search(start, plant, tries=(tries + 1) // 2, episodes=episodes, seed=seed)
    start = dataclasses.replace(without.pid, kd=without.pid.kp * told.delay)
    found = search(start, plant, tries=(tries + 1) // 2, episodes=episodes, seed=seed)
    best = max(without, found, key=lambda one: one.mean)
    return best._replace(first=without.first, episodes=without.episodes + found.episodes)


def _episode_length(plant: AbstractPlant, action: Float[np.ndarray, "m"], seed: int) -> int:
    """Samples of an episode under a constant action, `LONGEST_EPISODE` at most."""
    made = plant.make()
    try:
        made.reset(seed=seed)
        for sample in range(1, LONGEST_EPISODE + 1):
            if any(made.step(action)[2:4]):
                return sample
        return LONGEST_EPISODE
    finally:
        made.close()
