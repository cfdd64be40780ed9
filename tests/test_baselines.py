"""Baselines against difference equations by hand, tuning rules' tables, closed forms and exact reductions."""

from __future__ import annotations

import dataclasses
import math
import runpy
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import solve_discrete_are

import fittedq
from fittedq.acting.episodes import AbstractController, episodes
from fittedq.actions.base import Box
from fittedq.baselines import (
    LQR,
    PID,
    Called,
    Cloned,
    Constant,
    FirstOrderDelay,
    LinearModel,
    LoggedPlant,
    Loops,
    Tracked,
    search,
    step_response,
)
from fittedq.baselines.logged import with_history
from fittedq.data.description import Description
from fittedq.envs.native import physics
from fittedq.envs.plant import resolve
from fittedq.envs.process import CartPole, TwoTanks
from fittedq.errors import UserError
from fittedq.problems.lqr import LinearQuadratic

ERROR = Tracked(0, setpoint=1)
"""Observations [y, r]."""


def run(controller: AbstractController, observations: list[list[float]]) -> list[float]:
    loop = controller.loop()
    return [loop.act(np.array(obs)).item() for obs in observations]


def pid(*gains: float, low: float = -100.0, high: float = 100.0, **more: float | None) -> PID:
    return PID(*gains, tracked=ERROR, low=low, high=high, **more)


# ---------------------------------------------------------------------- PID


def test_pid_is_its_difference_equation() -> None:
    """kp = 2, ki = .5, kd = 3, dt = .5, T_f = .25, b = .5, bias 1, through y = 0, 1, 3 at r = 4, then 2."""
    controller = pid(2.0, 0.5, 3.0, dt=0.5, filter_time=0.25, setpoint_weight=0.5, bias=1.0)
    d1 = -3 * 1 / 0.75
    d2 = (0.25 * d1 - 3 * 2) / 0.75
    i0, i1, i2 = 1.0, 1.0 + 0.75, 1.0 + 0.75 - 0.25
    by_hand = [1 + 2 * 2 + i0, 1 + 2 * (2 - 1) + i1 + d1, 1 + 2 * (1 - 3) + i2 + d2]
    assert run(controller, [[0, 4], [1, 4], [3, 2]]) == pytest.approx(by_hand)


def test_the_derivative_does_not_kick_at_a_step_of_the_set_point() -> None:
    assert run(pid(1.0, 0.0, 5.0, setpoint_weight=0.0), [[1, 0], [1, 9], [1, -9]]) == [-1.0, -1.0, -1.0]


def test_an_integral_stands_still_while_it_would_push_beyond_a_limit() -> None:
    """kp = 1, ki = 1, u ≤ 2: e = 3, 3, 3 leave the integral at 0, so that e = .5 gives .5 + .5 at once."""
    assert run(pid(1.0, 1.0, high=2.0), [[0, 3]] * 3 + [[2.5, 3]]) == [2.0, 2.0, 2.0, 1.0]
    # At the limit, an error that pulls back is counted: 2 + 8 is beyond it, and the integral goes from 9 to 8.
    assert run(pid(0.0, 1.0, high=10.0), [[0, 9], [0, 2], [1, 0]]) == [9.0, 10.0, 8.0]


def test_back_calculation_leads_the_integral_towards_the_limit() -> None:
    """i += dt / T_t (u − v): with kp = 1, ki = 1, T_t = 2 and u ≤ 2, e = 4 gives v = 8, i = 4 − 3."""
    assert run(pid(1.0, 1.0, high=2.0, tracking_time=2.0), [[0, 4], [4.5, 4]]) == [2.0, pytest.approx(1 - 0.5 - 0.5)]


def test_pid_acts_on_many_episodes_as_on_each() -> None:
    paths = np.random.default_rng(0).normal(size=(7, 5, 2))
    controller = pid(1.0, 0.4, 0.2, low=-1.0, high=1.0)
    memory, together = controller.start(5), []
    for obs in paths:
        action, memory = controller.step(memory, obs)
        together.append(action[:, 0])
    each = [run(controller, paths[:, episode].tolist()) for episode in range(5)]
    np.testing.assert_allclose(np.stack(together, axis=1), each, atol=1e-6)


def test_loops_drive_each_its_action_and_hold_the_others() -> None:
    loops = Loops({2: pid(1.0), 0: dataclasses.replace(pid(2.0), tracked=Tracked(1, target=0.0))}, (7.0, 8.0, 9.0))
    action, _ = loops.step(loops.start(1), np.array([[1.0, 4.0]]))
    np.testing.assert_array_equal(action, [[-8.0, 8.0, 3.0]])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: pid(math.nan), "PID: found kp nan, expected a finite number"),
        (lambda: pid(1.0, low=1.0, high=1.0), "PID: found limits 1 and 1, expected low < high"),
        (lambda: pid(1.0, dt=0.0), "PID: found dt 0, expected a number of seconds above 0"),
        (lambda: pid(1.0, tracking_time=-1.0), "PID: found tracking_time -1"),
        (lambda: PID(1.0, tracked=Tracked(0), low=0.0, high=1.0), "found neither a coordinate `setpoint` nor"),
        (lambda: Loops({3: pid(1.0)}, (0.0,)), r"found loops for actions \[3\] and 1 numbers in `hold`"),
        (lambda: pid(1.0).evaluate(Wide(), 1), "takes 2 actions; give `Loops`"),
        (lambda: dataclasses.replace(pid(1.0), tracked=Tracked(5, target=0.0)).evaluate(TwoTanks(), 1), "coordinate 5"),
        (lambda: Constant((1.0, 2.0)).evaluate(TwoTanks(), 1), r"found 2 numbers, the environment takes 1 action"),
    ],
)
def test_a_controller_that_cannot_be_is_one_sentence(make, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


# ---------------------------------------------------------------------- step responses and rules


class Lag(gymnasium.Env):
    """y' = y + (1 − e^(−dt/τ)) (k u(t − θ) − y): k = 2, τ = 10 s, θ = 3 s, dt = 1 s, with [y, 0] observed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.y, self.before = 0.5, [0.25] * 3
        return np.array([self.y, 0.0], np.float32), {}

    def step(self, action):
        self.before.append(float(action[0]))
        self.y += (1 - math.exp(-1 / 10)) * (2 * self.before.pop(0) - self.y)
        return np.array([self.y, 0.0], np.float32), 0.0, False, False, {}


class Wide(gymnasium.Env):
    """Two actions."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))


def test_a_step_response_tells_gain_lag_and_delay() -> None:
    how = {"before": np.array([0.25]), "after": np.array([-0.5]), "rest": 5, "samples": 120}
    time, y, before = step_response(Lag(), ERROR, **how)
    assert (len(time), before) == (121, pytest.approx(0.5))
    found = FirstOrderDelay.of_step(time, y, before, -0.75)
    assert found.gain == pytest.approx(2.0, rel=1e-3)
    assert found.time_constant == pytest.approx(10.0, rel=0.01)
    # Between samples the response is read along a line, a little below the exponential.
    assert found.delay == pytest.approx(3.0, abs=0.1)


def test_the_rules_are_their_tables() -> None:
    """k = 2, τ = 10, θ = 1: SIMC with τ_c = θ has kp = 10 / (2 · 2) and T_i = min(10, 8); Cohen-Coon has θ/τ = .1."""
    plant = FirstOrderDelay(2.0, 10.0, 1.0)
    assert plant.simc() == pytest.approx((2.5, 2.5 / 8, 0.0))
    assert plant.simc(closed=4.0) == pytest.approx((1.0, 0.1, 0.0))
    kp, integral = (4 / 3 + 0.025) / 0.2, (32 + 0.6) / (13 + 0.8)
    assert plant.cohen_coon() == pytest.approx((kp, kp / integral, kp * 4 / 11.2))
    kp, integral = (0.9 + 0.1 / 12) / 0.2, (30 + 0.3) / (9 + 2)
    assert plant.cohen_coon(derivative=False) == pytest.approx((kp, kp / integral, 0.0))


def test_simc_holds_a_lag_with_a_delay_as_its_theory_says() -> None:
    """T_i = τ cancels the lag: L = e^(−θs) / (2θs), whose step response overshoots by 4 % and rises in some 4θ.

    Source: Skogestad 2003, section 4.1 (4 % for τ_c = θ).
    """
    dt, theta, tau = 0.02, 1.0, 6.0
    kp, ki, _ = FirstOrderDelay(2.0, tau, theta).simc()
    assert ki == pytest.approx(kp / tau)
    loop, y, sent, path = pid(kp, ki, dt=dt).loop(), 0.0, [0.0] * round(theta / dt), []
    for _ in range(1000):
        sent.append(loop.act(np.array([y, 1.0])).item())
        y += (1 - math.exp(-dt / tau)) * (2 * sent.pop(0) - y)
        path.append(y)
    assert 1.03 < max(path) < 1.05
    assert path[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FirstOrderDelay.of_step(np.arange(9.0), np.zeros(9), 0.0, 1.0), "has not come to rest"),
        (lambda: FirstOrderDelay.of_step(np.arange(9.0), np.arange(9.0), 0.0, 1.0), "has not come to rest"),
        (lambda: FirstOrderDelay(1.0, 1.0, 0.0).simc(), "found no delay"),
        (
            lambda: step_response(
                CartPole(),
                Tracked(0, target=0.0),
                before=np.zeros(1, np.float32),
                after=np.ones(1, np.float32),
                rest=100,
                samples=100,
            ),
            r"the episode ended after \d+ of 200 samples",
        ),
    ],
)
def test_a_step_response_that_tells_nothing_is_refused(make, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


# ---------------------------------------------------------------------- linear models and LQR

DOUBLE = LinearQuadratic(
    np.array([[1.0, 0.1], [0.0, 1.0]]),
    np.array([[0.0], [0.1]]),
    np.diag([1.0, 0.1]),
    np.array([[0.3]]),
    np.zeros((2, 2)),
    0.9,
)
BOX = Box((-1000.0,), (1000.0,))


def test_lqr_is_the_golden_ratio_where_all_is_one() -> None:
    """A = B = Q = R = 1: P = 1 + P − P² / (1 + P), so P = (1 + √5) / 2 and K = P / (1 + P) = 1 / P."""
    found = LQR.of(LinearModel.of_matrices(1.0, 1.0), [1.0], [1.0], action_set=BOX)
    golden = (1 + math.sqrt(5)) / 2
    assert (found.cost.item(), found.gain.item()) == (pytest.approx(golden), pytest.approx(1 / golden))


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_lqr_is_the_problem_s_own_answer(gamma: float) -> None:
    problem = dataclasses.replace(DOUBLE, gamma=gamma)
    found = LQR.of(LinearModel.of_matrices(problem.A, problem.B), problem.Q, problem.R, action_set=BOX, gamma=gamma)
    np.testing.assert_allclose(found.gain, problem.gain, rtol=1e-7)
    np.testing.assert_allclose(found.cost, problem.P, rtol=1e-7)


def test_lqr_earns_what_it_promises() -> None:
    """Σ (xᵀQx + aᵀRa) from x is xᵀPx: 300 samples, in the model as an environment."""
    model = LinearModel.of_matrices(DOUBLE.A, DOUBLE.B)
    found = LQR.of(model, np.diag(DOUBLE.Q), np.diag(DOUBLE.R), action_set=BOX)
    np.testing.assert_allclose(found.cost, solve_discrete_are(DOUBLE.A, DOUBLE.B, DOUBLE.Q, DOUBLE.R))
    start = np.array([[1.0, -0.5]])
    Q, R = jnp.asarray(DOUBLE.Q), jnp.asarray(DOUBLE.R)
    env = model.environment(start, BOX, lambda s, a, after: -(s @ Q @ s + a @ R @ a), episode_length=300)
    assert found.evaluate(env, 1).item() == pytest.approx(-(start @ found.cost @ start.T).item(), rel=1e-4)


def test_lqr_holds_a_set_point_without_an_error() -> None:
    """x' = .9 x + .5 y + a − 1, y' = .8 y + .1 x: y rests at r, where x = 2r and a = .1 · 2r − .5r + 1 = 1 − .3 r."""
    model = LinearModel.of_matrices([[0.9, 0.5], [0.1, 0.8]], [[1.0], [0.0]], [-1.0, 0.0])
    tracked = Tracked(1, setpoint=2)
    found = LQR.of(model, [0.0, 1.0], [0.1], action_set=BOX, tracked=[tracked])
    np.testing.assert_allclose(found.rest + found.per_setpoint[:, 0] * 3.0, [6.0, 3.0, 0.1], atol=1e-12)
    env = model.environment(np.array([[0.0, 0.0, 3.0]]), BOX, lambda s, a, after: -jnp.abs(after[1] - after[2]), 80)
    rows = next(episodes(found, resolve(env), 0))
    np.testing.assert_allclose(rows.next_obs[-1], [6.0, 3.0, 3.0], atol=1e-4)


def test_an_environment_is_linearized_about_a_point() -> None:
    """Against differences of its own step; coordinates that are no states are left out."""
    env, at, action = CartPole(), np.array([0.1, 0.2, 0.1, -0.3]), np.array([2.0])
    model = LinearModel.of_env(env, at, action, states=(2, 3))
    step = jax.jit(lambda at, action: physics(env)(at, action, None)[0][2:])

    def after(at: np.ndarray, action: np.ndarray) -> np.ndarray:
        return np.asarray(step(jnp.asarray(at, jnp.float32), jnp.asarray(action, jnp.float32)))

    np.testing.assert_allclose(model.predict(at[None], action[None])[0], after(at, action), atol=1e-6)
    for column, coordinate in enumerate(model.states):
        change = 0.01 * np.eye(4)[coordinate]
        slope = (after(at + change, action) - after(at - change, action)) / 0.02
        np.testing.assert_allclose(model.A[:, column], slope, atol=1e-3)
    np.testing.assert_allclose(model.B[:, 0], (after(at, action + 0.1) - after(at, action - 0.1)) / 0.2, atol=1e-4)


def linear_log(rows: int = 40) -> fittedq.Dataset:
    """x' = A x + B a + c, at random."""
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(rows, 3)), rng.uniform(-1, 1, (rows, 1))
    after = obs.copy()
    after[:, :2] = obs[:, :2] @ DOUBLE.A.T + action @ DOUBLE.B.T + [0.5, -0.25]
    return fittedq.Dataset.from_arrays(
        obs=obs, action=action, reward=np.zeros(rows), next_obs=after, terminated=np.zeros(rows, bool),
        action_low=-1.0, action_high=1.0,
    )  # fmt: skip


def test_a_log_of_a_linear_plant_gives_its_matrices() -> None:
    model = LinearModel.of_data(linear_log(), states=(0, 1))
    np.testing.assert_allclose(model.A, DOUBLE.A, atol=1e-5)
    np.testing.assert_allclose(model.B, DOUBLE.B, atol=1e-5)
    np.testing.assert_allclose(model.c, [0.5, -0.25], atol=1e-5)
    np.testing.assert_allclose(model.explained(linear_log()), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: LQR.of(LinearModel.of_matrices(np.eye(2), [[1.0], [0.0]]), [1, 1], [1], action_set=BOX),
            r"no action moves the mode with eigenvalue 1 \(most of it in observation 1\)",
        ),
        (
            lambda: LQR.of(LinearModel.of_matrices(np.eye(2), [[1.0], [1.0]]), [1, 1], [1], action_set=BOX),
            "no action moves the mode with eigenvalue 1",
        ),
        (lambda: LQR.of(LinearModel.of_matrices(1.0, 1.0), [0], [1], action_set=BOX), "no solution that stabilizes"),
        (lambda: LQR.of(LinearModel.of_matrices(1.0, 1.0), [1], [0], action_set=BOX), r"found R \[0.0\], expected"),
        (lambda: LQR.of(LinearModel.of_matrices(1.0, 1.0), [1, 1], [1], action_set=BOX), r"found Q of shape \(2,\)"),
        (
            lambda: LQR.of(
                LinearModel.of_matrices(np.diag([0.5, 0.5]), [[1.0], [1.0]]),
                [1, 1],
                [1],
                action_set=BOX,
                tracked=[Tracked(0, setpoint=2), Tracked(1, setpoint=3)],
            ),
            "no point of rest for every set-point of 2 measured values with 1 action",
        ),
        (
            lambda: LQR.of(
                LinearModel.of_matrices(0.5, 1.0), [1], [1], action_set=BOX, tracked=[Tracked(2, target=1.0)]
            ),
            r"observation 2 is tracked, and not among the states \[0\]",
        ),
        (lambda: LinearModel.of_matrices(np.eye(2), [[1.0]]), "found A, B and c of shapes"),
        (lambda: LinearModel.of_data(linear_log(3)), "found 3 transitions for 5 numbers in each row"),
        (lambda: LinearModel.of_env(Lag(), np.zeros(1), np.zeros(1)), "found Lag, which has no step that JAX"),
    ],
)
def test_a_regulator_that_cannot_be_is_one_sentence(make, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


# ---------------------------------------------------------------------- search, cloning, callables


def test_a_search_finds_the_gain_that_is_best() -> None:
    """x' = x + a from ±1 or ±2, r = −x'²: deadbeat, kp = 1, whatever the start."""
    starts = np.array([[-2.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    env = LinearModel.of_matrices(1.0, 1.0).environment(starts, BOX, lambda s, a, after: -(after[0] ** 2), 4)
    found = search(pid(0.4), env, tries=25, episodes=3)
    assert found.pid.kp == pytest.approx(1.0, abs=0.05)
    assert found.mean > found.first and (found.pid.ki, found.pid.kd) == (0.0, 0.0)
    assert found.episodes <= 3 * 28
    with pytest.raises(UserError, match="whose gains are all 0"):
        search(pid(0.0), env)


def test_a_clone_does_what_the_log_did() -> None:
    """a = .5 s₀ − .3 within (−1, 1), on 600 rows: nine tenths of the squared error gone at least."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(600, 2)) * [1.0, 100.0]
    action = np.clip(0.5 * obs[:, :1] - 0.3, -0.9, 0.9)
    log = fittedq.Dataset.from_arrays(
        obs=obs, action=action, reward=np.zeros(600), next_obs=obs, terminated=np.zeros(600, bool),
        action_low=-1.0, action_high=1.0,
    )  # fmt: skip
    clone = Cloned.of(log, widths=(16,), epochs=60, learning_rate=1e-2)
    missed = clone.step(None, np.asarray(obs, np.float32))[0] - action
    assert (missed**2).mean() < 0.1 * action.var()


class Sum:
    """Remembers."""

    def __init__(self) -> None:
        self.total = 0.0

    def __call__(self, obs: np.ndarray) -> float:
        self.total += float(obs[0])
        return self.total


def test_code_of_the_user_begins_each_episode_as_it_was_given() -> None:
    controller = Called(Sum(), "mine.py:Sum")
    loop = controller.loop()
    assert [loop.act(np.array([2.0])).item() for _ in range(2)] == [2.0, 4.0]
    loop.reset()
    assert loop.act(np.array([2.0])).item() == 2.0
    two, _ = controller.step(controller.start(2), np.array([[1.0], [5.0]]))
    np.testing.assert_array_equal(two, [[1.0], [5.0]])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda obs: obs[9], "mine raised IndexError"),
        (lambda obs: [1.0, 2.0], r"mine gives an action of shape \(2,\), expected \(1,\)"),
        (lambda obs: math.inf, r"mine gives the action \[inf\], expected finite numbers"),
    ],
)
def test_what_code_of_the_user_gives_is_checked(function, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Called(function, "mine").evaluate(TwoTanks(), 1)


# ---------------------------------------------------------------------- a real question

EXCITED = Path(__file__).parent.parent.parent / "shared" / "cases" / "excited.csv"


@pytest.mark.skipif(not EXCITED.exists(), reason="the log is not part of the project")
def test_a_log_of_a_heater_tunes_a_pi_that_beats_the_one_it_came_with() -> None:
    """SIMC on a model with two lags, fitted to the log; the plant's PI(6, .05) earns −269 (gain .73 K, 118 s, 6 s)."""
    make = runpy.run_path(str(EXCITED.with_name("make.py")))
    temp, u = np.loadtxt(EXCITED, delimiter=",", skiprows=1, usecols=(2, 1)).T
    obs = np.stack([temp[1:], temp[:-1], u[:-1]], axis=1)
    log = fittedq.Dataset.from_arrays(
        obs=obs[:-1], action=u[1:-1, None], reward=temp[2:], next_obs=obs[1:], terminated=temp[2:] < 0,
        action_low=0.0, action_high=255.0,
    )  # fmt: skip
    model = LinearModel.of_data(log)
    box, tracked = Box((0.0,), (255.0,)), Tracked(0, target=93.0)
    env = model.environment(np.array([[22.0, 22.0, 0.0]]), box, lambda s, a, after: after[0], 400)
    how = {"before": np.full(1, 50.0, np.float32), "after": np.full(1, 80.0, np.float32), "rest": 200, "samples": 200}
    plant = FirstOrderDelay.of_step(*step_response(env, tracked, dt=3.0, **how), change=30.0).sampled(3.0)
    assert plant.gain == pytest.approx(0.73, rel=0.1) and plant.time_constant == pytest.approx(118, rel=0.2)

    def judged(controller: PID) -> float:
        """One episode of 400 samples, from 22 °C."""
        heater, loop, y, total = make["Heater"](22.0, 0), controller.loop(), 22.0, 0.0
        for _ in range(400):
            y = heater.step(loop.act(np.array([y])).item())
            total -= ((y - 93) / 10) ** 2
        return total

    given = {"tracked": tracked, "low": 0.0, "high": 255.0, "dt": 3.0}
    assert judged(PID(*plant.simc(), **given)) > judged(PID(6.0, 0.05, **given)) + 15


# ---------------------------------------------------------------------- a plant as its log tells it


def lagged_log() -> fittedq.Dataset:
    """y' = 1.2 y − .3 y₋₁ + .5 u + .2 u₋₁ + .1, r = −(y − w)² − .1 u², w drawn for each of 8 episodes of 12 rows."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(8):
        w, y, before, done = rng.normal(), rng.normal(), rng.normal(), rng.normal()
        for sample in range(12):
            u = rng.uniform(-1, 1)
            after = 1.2 * y - 0.3 * before + 0.5 * u + 0.2 * done + 0.1
            rows.append((y, w, u, -((y - w) ** 2) - 0.1 * u**2, after, sample == 11))
            y, before, done = after, y, u
    y, w, u, r, after, last = np.array(rows).T
    return fittedq.Dataset.from_arrays(
        obs=np.stack([y, w], 1), action=u[:, None], reward=r, next_obs=np.stack([after, w], 1),
        terminated=last * 0, truncated=last, action_low=-1.0, action_high=1.0,
    )  # fmt: skip


def test_a_plant_with_lags_is_told_by_its_log() -> None:
    """Step by step as the equation has it, from a row of the log, with its reward; one lag does not explain it."""
    found = LoggedPlant.of(lagged_log(), lags=2, stay=[1], episode_length=30)
    np.testing.assert_allclose(found.explained, [1.0, np.nan], atol=1e-6)
    assert found.reward_explained == pytest.approx(1.0, abs=1e-6)
    assert LoggedPlant.of(lagged_log(), stay=[1]).explained[0] < 0.99
    rows = next(episodes(Called(lambda obs: 0.3 * (obs[1] - obs[0])), resolve(found.env), 0))
    y, w, u = np.asarray(rows.obs)[:, 0], np.asarray(rows.obs)[:, 1], np.asarray(rows.action)[:, 0]
    after = np.asarray(rows.next_obs)[:, 0]
    assert len(y) == 30 and (w == w[0]).all()
    np.testing.assert_allclose(after[1:], 1.2 * y[1:] - 0.3 * y[:-1] + 0.5 * u[1:] + 0.2 * u[:-1] + 0.1, atol=1e-3)
    np.testing.assert_allclose(rows.reward, -((y - w) ** 2) - 0.1 * u**2, atol=1e-3)


@pytest.mark.parametrize(
    ("reward", "exact"),
    [("-abs(level - wish) - 0.1 * heat**2 + 0.2 * next_level", True), ("-abs(d_level)", False), ("-abs(level)", False)],
)
def test_a_described_reward_is_that_of_the_plant_as_its_log_tells_it(reward: str, exact: bool) -> None:
    """One that a quadratic only comes near; one of earlier rows, or of other rewards than the log's, is not taken."""
    rows = lagged_log().columns
    (y, w), u, after = rows["obs"].T, rows["action"][:, 0], rows["next_obs"][:, 0]
    log = fittedq.Dataset.from_arrays(
        **dict(rows) | {"reward": -np.abs(y - w) - 0.1 * u**2 + 0.2 * after}, action_low=-1.0, action_high=1.0
    )
    log.description = Description(obs=("level", "wish"), action=("heat",), reward=reward)
    found = LoggedPlant.of(log, lags=2, stay=[1], episode_length=30)
    assert found.reward_explained == pytest.approx(1.0, abs=1e-5) if exact else found.reward_explained < 0.99
    played = next(episodes(Called(lambda obs: 0.9 * np.sign(obs[1] - obs[0])), resolve(found.env), 0))
    (y, w), u, after = np.asarray(played.obs).T, np.asarray(played.action)[:, 0], np.asarray(played.next_obs)[:, 0]
    off = np.abs(played.reward - (-np.abs(y - w) - 0.1 * u**2 + 0.2 * after))
    assert off.max() < 1e-4 if exact else off.max() > 0.05


def test_a_history_reaches_over_no_end_of_an_episode() -> None:
    log = lagged_log()
    kept = [row for row in range(96) if row % 12 >= 3]
    np.testing.assert_array_equal(with_history(log, 4), kept)
    with pytest.raises(UserError, match=r"lags: found no row with 12 before it in its episode, of 96 transitions"):
        LoggedPlant.of(log, lags=13)
