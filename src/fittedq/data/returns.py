"""Transitions over several steps, made of the rows that follow one another."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.arrays import Arr, namespace
from fittedq.types import REWARD


def stretch(
    numbers: Int[Arr, "*b"], steps: int, stride: int | Int[Arr, "*b"], stop: int | Int[Arr, ""]
) -> tuple[Int[Arr, "*b n"], Bool[Arr, "*b n"]]:
    """(the numbers of a row and the n − 1 that may follow it, which of them have come), of rows up to `stop`.

    `stride` is the number of environments whose rows take turns. What has not come yet has the row's own number.
    """
    xp = namespace(numbers)
    after = xp.asarray(stride)[..., None] * xp.arange(steps)
    index = numbers[..., None] + after
    come = index < stop
    return xp.where(come, index, numbers[..., None]), come


def joined_steps(
    rows: Float[Arr, "*b n width"], come: Bool[Arr, "*b n"], gamma: float, obs_size: int, action_size: int
) -> tuple[Float[Arr, "*b width"], Float[Arr, "*b"]]:
    """(one row (s, a, Σ_{k<m} γᵏ r_k, s_m, ends of step m − 1) of n packed ones, γ^(m − 1)).

    m ≤ n is the number of rows that follow one another: each has come, its s is the s' of the one before to the bit,
    and no episode ended between them. So the last one bootstraps where its episode was truncated, or goes on.
    """
    xp = namespace(rows)
    acted = obs_size + action_size
    follows = _follows(rows, come, obs_size, acted)
    alive = xp.concatenate([xp.ones_like(come[..., :1]), xp.cumprod(follows, axis=-1) > 0], axis=-1)
    power = xp.asarray(gamma ** xp.arange(rows.shape[-2]), rows.dtype)
    reward = xp.sum(xp.where(alive, rows[..., REWARD] * power, 0.0), axis=-1)
    last = alive.sum(-1) - 1
    end = xp.take_along_axis(rows, last[..., None, None], axis=-2)[..., 0, :]
    parts = (rows[..., 0, :acted], end[..., acted:REWARD], reward[..., None], end[..., -2:])
    return xp.concatenate(parts, axis=-1).astype(rows.dtype), power[last]


def next_action(
    rows: Float[Arr, "*b two width"], come: Bool[Arr, "*b two"], obs_size: int, action_size: int
) -> Float[Arr, "*b m"]:
    """The action that was taken at s' of the first row, which the second one tells; NaN where it does not follow it."""
    acted = obs_size + action_size
    follows = _follows(rows, come, obs_size, acted)[..., :1]
    return namespace(rows).where(follows, rows[..., 1, obs_size:acted], np.nan).astype(rows.dtype)


def _follows(rows: Float[Arr, "*b n width"], come: Bool[Arr, "*b n"], obs_size: int, acted: int) -> Bool[Arr, "*b _"]:
    """Which rows but the first are the next step of the episode of the one before."""
    ends = namespace(rows).any(rows[..., -2:] > 0.5, axis=-1)
    same = (rows[..., :-1, acted:REWARD] == rows[..., 1:, :obs_size]).all(-1)
    return come[..., 1:] & same & ~ends[..., :-1]
