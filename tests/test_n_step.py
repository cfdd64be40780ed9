"""Returns of several steps, against brute force over episodes and a known q."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.algorithms import DDPG, SVG, XQC
from fittedq.bellman import td_target
from fittedq.data.dataset import Dataset
from fittedq.data.replay import DeviceReplay, Replay
from fittedq.data.returns import joined_steps, stretch
from fittedq.errors import UserError
from fittedq.template.targets import AbstractTarget, Labelled
from fittedq.trainers.settings import FitSettings, TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import Components, DrawnRows, Greedy, Transition

GAMMA = 0.9
BOX = Box((-1.0,), (1.0,))


def episodes(rng: np.random.Generator, environments: int, steps: int) -> np.ndarray:
    """Packed rows of environments that take turns, with ends of both kinds; an episode begins where the last ended."""
    rows, obs = [], rng.normal(size=(environments, 2)).astype(np.float32)
    for _ in range(steps):
        action, next_obs = rng.normal(size=(environments, 1)), rng.normal(size=(environments, 2)).astype(np.float32)
        kind = rng.integers(0, 6, environments)
        row = Transition(
            obs,
            action.astype(np.float32),
            rng.normal(size=environments).astype(np.float32),
            next_obs,
            kind == 0,
            kind == 1,
        )
        rows.append(row.pack())
        obs = next_obs
    return np.concatenate(rows)


def by_hand(rows: np.ndarray, first: int, stride: int, n: int) -> tuple[float, np.ndarray, bool, int]:
    """(R, s', terminated, n'), step by step."""
    total, at = 0.0, first
    for step in range(n):
        row = Transition.unpack(rows[at], 2, 1)
        total += GAMMA**step * float(row.reward)
        if row.terminated or row.truncated or step == n - 1 or at + stride >= len(rows):
            return total, row.next_obs, bool(row.terminated), step + 1
        at += stride
    raise AssertionError


@pytest.mark.parametrize(("environments", "n"), [(1, 4), (3, 3), (2, 50)])
def test_a_return_is_what_stepping_through_the_episode_gives(environments: int, n: int) -> None:
    rows = episodes(np.random.default_rng(n), environments, 60)
    numbers = np.arange(len(rows))
    index, come = stretch(numbers, n, environments, len(rows))

    def joined(rows, come):
        return joined_steps(rows, come, GAMMA, 2, 1)

    for join in (joined, jax.jit(joined)):
        joint, discount = map(np.asarray, join(rows[index], come))
        got = Transition.unpack(joint, 2, 1)
        assert np.array_equal(got.obs, rows[:, :2]) and np.array_equal(got.action, rows[:, 2:3])
        for number in numbers:
            total, next_obs, terminated, steps = by_hand(rows, number, environments, n)
            assert float(got.reward[number]) == pytest.approx(total, abs=1e-5)
            assert np.array_equal(got.next_obs[number], next_obs)
            assert bool(got.terminated[number]) == terminated
            assert float(discount[number]) == pytest.approx(GAMMA ** (steps - 1), rel=1e-6)


def test_rows_that_only_look_like_neighbours_are_not_joined() -> None:
    """An episode that broke off without an end, as where an environment could not be brought back."""
    rows = episodes(np.random.default_rng(0), 1, 2)
    rows[:, -2:] = 0.0
    rows[1, :2] += 1e-3
    joint, discount = joined_steps(rows[None], np.ones((1, 2), bool), GAMMA, 2, 1)
    assert np.array_equal(joint[0], rows[0]) and discount[0] == 1.0


def test_a_full_ring_joins_over_its_seam_and_not_over_its_end() -> None:
    """On the device as on the host: the newest row is followed by the oldest in memory, and by nothing in time."""
    rows = episodes(np.random.default_rng(3), 2, 40)
    rows[:, -2:] = 0.0
    ring, device = Replay(30, rows.shape[1]), DeviceReplay.empty(30, rows.shape[1])
    for part in np.split(rows, 20):
        ring.add(part)
        device = device.add(jnp.asarray(part))
    drawn, come = device.stretches(jax.random.key(0), 200, 4, 2)
    first = {bytes(row): number for number, row in enumerate(rows)}
    for row, here in zip(np.asarray(drawn), np.asarray(come), strict=True):
        number = first[bytes(row[0])]
        index, expected = stretch(np.array(number), 4, 2, ring.added)
        assert number >= 50 and np.array_equal(here, expected)
        assert np.array_equal(row, ring.take(index)) and np.array_equal(row, rows[index])


class OfLqr(AbstractTarget):
    """y = r + γ (1 − terminated) v(s') with the true v(s) = −p s² of a = −k s."""

    bootstraps: ClassVar[bool | None] = True
    p: float

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: Any) -> Labelled:
        value = -self.p * batch.next_obs[:, 0] ** 2
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, value, GAMMA))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        return -math.inf, math.inf


@pytest.mark.parametrize("n", [1, 2, 7])
def test_under_the_true_q_every_number_of_steps_gives_q(n: int) -> None:
    """s' = s + a, r = −s² − a², a = −k s: q(s, a) = −(1 + k²) s² / (1 − γ (1 − k)²), and time limits cost nothing."""
    k = 0.3
    p = (1 + k**2) / (1 - GAMMA * (1 - k) ** 2)
    obs = np.repeat([1.0, -2.0, 0.5], 5) * np.tile((1 - k) ** np.arange(5.0), 3)
    ends = np.tile([False] * 4 + [True], 3)
    one = obs.astype(np.float32)[:, None]
    after = np.concatenate([one[1:], one[:1]])
    after[ends] = one[ends] * (1 - k)
    rows = Transition(one, -k * one, (-(1 + k**2) * one**2)[:, 0], after, np.zeros(15, bool), ends).pack()
    joint, discount = joined_steps(rows[stretch(np.arange(15), n, 1, 15)[0]], np.ones((15, n), bool), GAMMA, 1, 1)
    target, batch = OfLqr(p), Transition.unpack(joint, 1, 1)
    data = target(Components(), batch, None, None)
    labelled = data.as_drawn(target, batch, DrawnRows(discount=discount))
    np.testing.assert_allclose(labelled.y, -p * one[:, 0] ** 2, rtol=1e-5)
    if n == 1:
        assert np.array_equal(labelled.y, data.y)


@pytest.mark.parametrize("algorithm", [DDPG(hidden=(4,)), XQC(hidden=(4,), bins=5)], ids=["value", "returns"])
def test_a_template_labels_with_the_value_after_n_steps(algorithm: Any) -> None:
    """y = R + γⁿ (1 − terminated) v(s'), v read off the one-step label of reward 0: for distributions bin by bin."""
    fqi, state = initial_state(algorithm, 2, BOX, 6, 0, TrainSettings(n_step=3, batch_size=6))
    rows, batch = episodes(np.random.default_rng(1), 6, 1), None
    rows[:, -2:-1] = np.array([[0], [0], [1], [0], [1], [0]])
    batch = Transition.unpack(jnp.asarray(rows), 2, 1)
    discount = jnp.asarray(algorithm.gamma ** np.array([0, 1, 2, 2, 2, 1]), jnp.float32)
    key, update = jax.random.key(0), fqi.updates[0]
    assert fqi.greedy is not None
    greedy = fqi.greedy(state.frozen.over(state.nets), batch.next_obs, key)
    (plain, long) = (
        update.label(state.nets, state.frozen, some, greedy, key, drawn).y
        for some, drawn in ((batch._replace(reward=0 * batch.reward), None), (batch, DrawnRows(discount=discount)))
    )
    reward, discount = (part.reshape(-1, *[1] * (plain.ndim - 1)) for part in (batch.reward, discount))
    np.testing.assert_allclose(long, reward + discount * plain, rtol=1e-5, atol=1e-6)


def test_what_needs_single_steps_is_refused_in_a_sentence() -> None:
    settings = {"n_step": 2, "hidden": (4,)}
    with pytest.raises(UserError, match="setting n_step: the model's Likelihood takes transitions of one step"):
        fittedq.train(SVG, "Pendulum-v1", steps=1, **settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="setting n_step: found 2, expected 1: a fitted method labels every row"):
        fittedq.fit("nfqca", logged(), **settings)  # type: ignore[arg-type]
    for wrong in (0, 1_001):
        with pytest.raises(UserError, match="setting n_step: found"):
            FitSettings(n_step=wrong)


def logged() -> Dataset:
    """Forty rows of episodes."""
    columns = Transition.unpack(episodes(np.random.default_rng(0), 1, 40), 2, 1)
    return Dataset.from_arrays(**columns._asdict(), action_low=-4.0, action_high=4.0)


def same(one: fittedq.Agent, other: fittedq.Agent) -> bool:
    leaves = (jax.tree.leaves(agent.nets) for agent in (one, other))
    return all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


SMALL: dict[str, Any] = {"hidden": (4,), "batch_size": 4, "n_step": 3}


@pytest.mark.parametrize("env", ["Pendulum-v1", pytest.param("jax/Pendulum-v1", marks=pytest.mark.slow)])
def test_a_run_goes_on_bit_for_bit(env: str, tmp_path: Path) -> None:
    loop = SMALL | {"random_steps": 4, "n_envs": 2, "replay_size": 15}
    whole = fittedq.train("ddpg", env, steps=24, **loop)
    for _ in fittedq.stream("ddpg", env, steps=24, report_every=12, out=tmp_path / "run", **loop):
        break
    assert same(fittedq.resume(tmp_path / "run"), whole)


def test_a_dataset_is_learned_from_by_several_steps() -> None:
    one, three = (fittedq.fit("ddpg", logged(), steps=2, **SMALL | {"n_step": n}) for n in (1, 3))
    assert not same(one, three)
