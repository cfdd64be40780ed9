"""PID gains by trying them: a search over episodes in an environment, or in a model of the plant."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from fittedq.baselines.pid import PID
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.errors import UserError
from fittedq.settings import whole

SEED = 2**30
"""Added to the seed: what gains are chosen by is not what they are judged by."""
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
        mean = float(at(factors).evaluate(plant, episodes, seed + SEED).mean())
        scores[tuple(factors.tolist())] = mean
        return -mean

    corner = np.zeros(len(names))
    simplex = np.concatenate([corner[None], FIRST_STEP * np.eye(len(names))])
    options = {"initial_simplex": simplex, "maxfev": tries, "xatol": 0.02, "fatol": np.inf}
    minimize(loss, corner, method="Nelder-Mead", options=options)
    best = max(scores, key=scores.__getitem__)
    return Searched(at(np.asarray(best)), scores[best], scores[tuple(corner.tolist())], len(scores) * episodes)
