"""What a log can teach: every check against plants whose answer is known, and against logs of plants."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fittedq.cli.main import main
from fittedq.data.checks.base import ADVICE, GOOD, LOOK_HERE, UNSAID, AbstractCheck
from fittedq.data.checks.closed_loop import MOST_EXPLAINED, OWN_PAST, ClosedLoop
from fittedq.data.checks.coverage import LEAST_COVERED, Coverage
from fittedq.data.checks.excitation import Excitation
from fittedq.data.checks.floor import Floor
from fittedq.data.checks.lessons import checks_of, doubts
from fittedq.data.checks.markov import Markov
from fittedq.data.checks.rewards import Rewards
from fittedq.data.checks.sample import FOLDS, MOST_ROWS, PIECE, Sample
from fittedq.data.dataset import Dataset
from fittedq.data.description import Description
from fittedq.data.quality import quality_of
from fittedq.problems.lqr import LinearQuadratic

SHARED = Path(__file__).parents[2] / "shared"


def logged(
    obs: np.ndarray, action: np.ndarray, reward: np.ndarray | None = None, ends: tuple[int, ...] = (), box: float = 0
) -> Dataset:
    """Rows one after another; the last observation is only a next one. Without a `box`, that of the actions found."""
    obs, action = (np.asarray(part, float).reshape(len(part), -1) for part in (obs, action))
    count = len(obs) - 1
    truncated = np.zeros(count, bool)
    truncated[[*ends, count - 1]] = True
    action = action[:count]
    low, high = (
        (-np.full(action.shape[1], box), np.full(action.shape[1], box)) if box else (action.min(0), action.max(0))
    )
    return Dataset.from_arrays(
        obs=obs[:-1],
        action=action,
        reward=-(obs[:-1] ** 2).sum(axis=1) if reward is None else reward[:count],
        next_obs=obs[1:],
        terminated=np.zeros(count, bool),
        truncated=truncated,
        action_low=low,
        action_high=high,
    )


def pi_loop(rows: int, dither: float, seed: int, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """y' = .9 y + .1 u + noise, u = −2 y − .3 Σy + dither: (y, u)."""
    rng = np.random.default_rng(seed)
    y, total, found = 1.0, 0.0, []
    for d, w in zip(dither * rng.normal(size=rows), noise * rng.normal(size=rows), strict=True):
        total += y
        u = -2 * y - 0.3 * total + d
        found.append((y, u))
        y = 0.9 * y + 0.1 * u + w
    return tuple(np.array(found).T)  # type: ignore[return-value]


def held(rows: int, hold: int, seed: int, size: int = 1) -> np.ndarray:
    """Uniform levels in [−1, 1], each held for so many rows."""
    levels = np.random.default_rng(seed).uniform(-1, 1, (-(-rows // hold), size))
    return np.repeat(levels, hold, axis=0)[:rows]


def lagged(action: np.ndarray, pole: float, noise: float, seed: int) -> np.ndarray:
    """y' = pole y + (1 − pole) u + noise."""
    rng = np.random.default_rng(seed)
    y = np.zeros(len(action))
    for k, w in enumerate(noise * rng.normal(size=len(action) - 1)):
        y[k + 1] = pole * y[k] + (1 - pole) * action[k, 0] + w
    return y


# ---------------------------------------------------------------------- the sample


def test_pieces_of_a_large_log_are_whole_rows_in_order_and_never_cross_an_end() -> None:
    rows = 4 * MOST_ROWS
    index = np.arange(rows + 1.0)
    dataset = logged(index, index, ends=(PIECE // 2, 5_000))
    sample = Sample.of(dataset)
    assert MOST_ROWS <= len(sample) <= MOST_ROWS + PIECE and not sample.whole
    assert sample.obs.max() > rows - 2 * 4 * PIECE, "from everywhere"
    row = sample.obs[:, 0].astype(int)
    follows = sample.age > 0
    assert (row[follows] == row[np.flatnonzero(follows) - 1] + 1).all()
    assert not np.isin(row[follows] - 1, [PIECE // 2, 5_000]).any()
    start = np.select([row > 5_000, row > PIECE // 2], [5_001, PIECE // 2 + 1], 0)
    # Σ from the run's start, over rows between the pieces too.
    np.testing.assert_allclose(sample.integral[:, 0], (row + start) * (row - start + 1) / 2)
    np.testing.assert_array_equal(sample.integral[:, 1], row - start + 1)
    assert set(sample.fold) == set(range(FOLDS))


def test_groups_are_episodes_where_there_are_many_and_blocks_where_there_are_few() -> None:
    many = Sample.of(logged(np.arange(301), np.arange(301), ends=tuple(range(9, 300, 10))))
    np.testing.assert_array_equal(many.group, np.arange(300) // 10)
    few = Sample.of(logged(np.arange(301), np.arange(301)))
    np.testing.assert_array_equal(few.group, np.arange(300) // 15)


# ---------------------------------------------------------------------- closed loop


def own_past_variance(dither: float, noise: float = 0.1) -> float:
    """Var(u_k | u_{k−1} … u_{k−OWN_PAST}) of `pi_loop` at rest, from its stationary covariance."""
    # z = (y, Σ before y): u = −2 y − .3 (S + y) + d.
    gain = np.array([-2.3, -0.3])
    A = np.array([[0.9 + 0.1 * gain[0], 0.1 * gain[1]], [1.0, 1.0]])
    b = np.array([0.1, 0.0])
    shock = dither**2 * np.outer(b, b) + noise**2 * np.diag([1.0, 0.0])
    Z = np.linalg.solve(np.eye(4) - np.kron(A, A), shock.ravel()).reshape(2, 2)
    covariances = [gain @ Z @ gain + dither**2]
    ahead = A @ Z @ gain + b * dither**2
    for _ in range(OWN_PAST):
        covariances.append(gain @ ahead)
        ahead = A @ ahead
    table = np.array([[covariances[abs(i - j)] for j in range(OWN_PAST + 1)] for i in range(OWN_PAST + 1)])
    return float(table[0, 0] - table[0, 1:] @ np.linalg.solve(table[1:, 1:], table[1:, 0]))


def test_a_pi_without_exploration_is_found_and_the_remedy_said() -> None:
    check = ClosedLoop.of(Sample.of(logged(*pi_loop(2_000, 0.0, 0))))
    assert isinstance(check, ClosedLoop)
    assert check.r2[0] > 0.9999
    assert check.verdict == LOOK_HERE
    assert "Log again" in check.told() and "R² 1.000" in check.told()


@pytest.mark.parametrize("dither", [0.05, 0.3])
def test_exploration_of_known_size_leaves_its_share(dither: float) -> None:
    """R² = 1 − σ_d² / Var(u | its past): only the integral tells all that the controller did, and nothing tells d."""
    rows = 8_000
    check = ClosedLoop.of(Sample.of(logged(*pi_loop(rows, dither, 1))))
    assert isinstance(check, ClosedLoop)
    share = dither**2 / own_past_variance(dither)
    assert check.source == ["the observation and its integral"]
    # Deviation of a ratio of variances: some √(4 / rows) of the share.
    assert 1 - check.r2[0] == pytest.approx(share, rel=5 * np.sqrt(4 / rows))
    assert check.verdict == (LOOK_HERE if 1 - share > MOST_EXPLAINED else GOOD)


@pytest.mark.parametrize("hold", [1, 20, 100])
def test_random_steps_are_no_controller_however_long_they_are_held(hold: int) -> None:
    action = held(3_000, hold, 3)
    check = ClosedLoop.of(Sample.of(logged(lagged(action, 0.8, 0.01, 4), action)))
    assert isinstance(check, ClosedLoop)
    assert check.verdict == GOOD and check.r2[0] < 0.2


def test_a_thermostat_is_a_controller_and_a_random_switch_is_none() -> None:
    rng = np.random.default_rng(0)
    temperature, heater, rows = 20.0, 1.0, []
    for _ in range(3_000):
        heater = 1.0 if temperature < 20 else 0.0 if temperature > 22 else heater
        rows.append((temperature, heater))
        temperature += 0.05 * (40 * heater + 5 - temperature) + rng.normal(0, 0.05)
    found = ClosedLoop.of(Sample.of(logged(*np.array(rows).T)))
    assert isinstance(found, ClosedLoop) and found.r2[0] > MOST_EXPLAINED
    switched = (held(3_000, 15, 5) > 0).astype(float)
    check = ClosedLoop.of(Sample.of(logged(lagged(switched, 0.9, 0.01, 4), switched)))
    assert isinstance(check, ClosedLoop) and check.r2[0] < 0.2


def test_single_steps_are_judged_by_the_observation_alone() -> None:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(401, 2)), rng.uniform(-1, 1, 401)
    every = tuple(range(400))
    free = ClosedLoop.of(Sample.of(logged(obs, action, ends=every)))
    bound = ClosedLoop.of(Sample.of(logged(obs, obs @ [1.0, -2.0], ends=every)))
    assert isinstance(free, ClosedLoop) and isinstance(bound, ClosedLoop)
    assert free.r2[0] < 0.05 and free.source == bound.source == ["the observation"]
    assert bound.r2[0] > 0.999


# ---------------------------------------------------------------------- coverage


def test_uniform_actions_cover_the_box_and_noise_covers_its_share() -> None:
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(6_001, 3))
    uniform = Coverage.of(Sample.of(logged(obs, rng.uniform(-1, 1, (6_001, 2)), box=1)))
    assert isinstance(uniform, Coverage)
    assert min(uniform.covered) > 0.95 and uniform.least > 0.9 and uniform.verdict == GOOD
    for sigma in (0.01, 0.1):  # of the box's width
        action = np.clip(0.2 * obs[:, 0] + 2 * sigma * rng.normal(size=6_001), -1, 1)
        check = Coverage.of(Sample.of(logged(obs, action, box=1)))
        assert isinstance(check, Coverage)
        assert check.covered[0] == pytest.approx(np.sqrt(12) * sigma, rel=0.15)
        assert check.verdict == (LOOK_HERE if np.sqrt(12) * sigma < LEAST_COVERED else GOOD)


def test_actions_that_move_together_are_found_by_their_direction() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform(-1, 1, 2_001)
    check = Coverage.of(Sample.of(logged(rng.normal(size=2_001), np.stack([first, -first], axis=1), box=1)))
    assert isinstance(check, Coverage)
    assert min(check.covered) > 0.95 and check.least < 0.01
    assert np.abs(check.direction) == pytest.approx([0.5**0.5] * 2) and np.prod(check.direction) > 0
    assert "move together" in check.remedy()


# ---------------------------------------------------------------------- excitation


def test_steps_are_counted_and_ramps_and_small_noise_are_not_steps() -> None:
    levels = np.tile([-1.0, 1.0, 0.0], 20)
    rng = np.random.default_rng(0)
    action = np.repeat(levels, 10) + 0.005 * rng.uniform(-1, 1, 600)
    check = Excitation.of(Sample.of(logged(rng.normal(size=601), np.append(action, 0.0), box=2)))
    assert isinstance(check, Excitation)
    assert check.moves == [59] and check.held == [pytest.approx(600 / 59)]
    few = Excitation.of(Sample.of(logged(rng.normal(size=601), np.repeat([0.0, 1.0, 0.0], [200, 200, 201]))))
    assert isinstance(few, Excitation) and few.moves == [2] and few.verdict == LOOK_HERE


@pytest.mark.parametrize("pole", [0.8, 0.95])
def test_settling_time_and_what_passes_are_those_of_the_plant(pole: float) -> None:
    action = held(9_000, 1, 3)
    check = Excitation.of(Sample.of(logged(lagged(action, pole, 0.02, 4), action)))
    assert isinstance(check, Excitation) and check.settling is not None
    settling = np.log(0.05) / np.log(pole)
    assert check.settling == pytest.approx(settling, rel=0.1, abs=1)
    # White noise passes (1 − c) / (1 + c) of its variance; c is the plant's pole.
    assert check.passed[0] == pytest.approx((1 - pole) / (1 + pole), rel=0.2)
    assert check.seen[0] > 100 and check.verdict == GOOD


def test_an_action_that_does_nothing_is_told() -> None:
    action = held(2_000, 1, 3, 2)
    check = Excitation.of(Sample.of(logged(lagged(action, 0.8, 0.02, 4), action)))
    assert isinstance(check, Excitation)
    assert check.seen[0] > 50 and check.seen[1] < 5
    assert check.verdict == (ADVICE if check.seen[1] < 4 else GOOD)


# ---------------------------------------------------------------------- markov


def second_order(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """y_{k+1} = 1.5 y_k − .6 y_{k−1} + u_k + noise; u random."""
    rng = np.random.default_rng(seed)
    u, noise, y = rng.uniform(-1, 1, rows), 0.1 * rng.normal(size=rows), np.zeros(rows)
    for k in range(1, rows - 1):
        y[k + 1] = 1.5 * y[k] - 0.6 * y[k - 1] + u[k] + noise[k]
    return y, u


def test_a_second_order_plant_seen_through_one_output_needs_a_history_of_two() -> None:
    y, u = second_order(2_000, 0)
    check = Markov.of(Sample.of(logged(y, u)))
    assert isinstance(check, Markov)
    assert check.history == 2 and check.verdict == ADVICE and "--history 2" in check.remedy()
    # With y_{k−1} beside it the state is whole: what is left is the noise's variance.
    whole = Markov.of(Sample.of(logged(np.stack([y[1:], y[:-1]], axis=1), u[1:])))
    assert isinstance(whole, Markov) and whole.history == 1 and whole.verdict == GOOD
    assert whole.errors[0][0] == pytest.approx(0.01 / np.diff(y).var(), rel=0.15)


# ---------------------------------------------------------------------- rewards


def test_an_outlier_carries_its_share_and_a_bonus_is_no_outlier() -> None:
    reward = np.tile([-1.0, 0.0, 1.0], 1_000)
    reward[700] = size = 100.0
    check = Rewards.of(logged(np.arange(3_001), np.arange(3_001), reward))
    assert check.few == 3 and check.rows[0] == 700 and check.values[0] == size
    assert check.carried == pytest.approx(size**2 / (size**2 + 2_000), rel=1e-3)
    assert check.verdict == LOOK_HERE
    sparse = np.zeros(3_000)
    sparse[::600] = 1.0
    assert Rewards.of(logged(np.arange(3_001), np.arange(3_001), sparse)).verdict == GOOD


# ---------------------------------------------------------------------- floor


def test_the_floor_is_the_noise_of_one_step_in_closed_form() -> None:
    """V = −sᵀP_K s − c under a = −.5 s + N(0, Σ); Var(γ V(s') | s, a) = γ² P² (2 W² + 4 W μ²), μ = s + a."""
    problem, gain, spread, rows = LinearQuadratic.scalar(gamma=0.9, noise=0.04), 0.5, 0.09, 20_000
    rng = np.random.default_rng(0)
    s, a = np.zeros(rows + 1), np.zeros(rows + 1)
    for k, (d, w) in enumerate(rng.normal(size=(rows, 2)) * [spread**0.5, 0.2]):
        a[k] = -gain * s[k] + d
        s[k + 1] = s[k] + a[k] + w
    dataset = logged(s, a, -(s**2) - a**2)
    check = Floor.of(Sample.of(dataset), 0.9)
    assert isinstance(check, Floor)
    P = (1 + gain**2) / (1 - 0.9 * (1 - gain) ** 2)
    W, variance = 0.04, (0.04 + spread) / (1 - (1 - gain) ** 2)
    moved = (1 - gain) ** 2 * variance + spread
    noise = 0.9 * P * np.sqrt(2 * W**2 + 4 * W * moved)
    assert problem.gamma == 0.9
    assert check.noise == pytest.approx(noise, rel=0.06)
    assert check.error == pytest.approx(check.noise / (0.1 * np.sqrt(rows)))
    assert check.spread == pytest.approx(P * np.sqrt(2) * variance, rel=0.15)
    assert check.own_value == pytest.approx(-(variance + gain**2 * variance + spread) / 0.1, rel=0.1)
    assert check.verdict == GOOD


def test_the_floor_knows_that_nothing_comes_after_an_end() -> None:
    """r = 1 until an end of probability p: V = 1 / (1 − γ (1 − p)), and the noise is the end's, γ V √(p (1 − p))."""
    rng = np.random.default_rng(0)
    rows, gamma, p = 10_000, 0.9, 0.1
    obs = rng.normal(size=(rows + 1, 1))
    ends = rng.random(rows) < p
    dataset = Dataset.from_arrays(
        obs=obs[:-1],
        action=rng.uniform(-1, 1, (rows, 1)),
        reward=np.ones(rows),
        next_obs=obs[1:],
        terminated=ends,
        action_low=-1,
        action_high=1,
    )
    check = Floor.of(Sample.of(dataset), gamma)
    assert isinstance(check, Floor)
    value = 1 / (1 - gamma * (1 - p))
    assert check.value.mean() == pytest.approx(value, rel=0.05)
    assert check.noise == pytest.approx(gamma * value * np.sqrt(p * (1 - p)), rel=0.08)


def test_a_short_log_says_so_and_nothing_else() -> None:
    checks = checks_of(logged(np.arange(12.0) % 3, np.arange(12.0) % 4))
    verdicts = {check.title: check.verdict for check in checks}
    assert {title for title, verdict in verdicts.items() if verdict == UNSAID} == {
        "closed loop",
        "coverage",
        "markov",
        "floor",
    }
    assert all(check.remedy().endswith(".") for check in checks)


def test_names_times_and_the_history_are_those_of_the_description() -> None:
    y, u = second_order(2_000, 0)
    dataset = logged(y, u)
    plain = by_title(dataset)
    dataset.description = Description(
        obs=("level",), action=("valve",), time="t", sample=2.0, settling=100.0, history=2
    )
    checks = by_title(dataset)
    for title in ("closed loop", "coverage", "excitation"):
        assert "action 0" in plain[title].finding() and "valve" in checks[title].finding()
    assert "observation 0" in plain["markov"].finding() and "level" in checks["markov"].finding()
    assert (plain["markov"].verdict, checks["markov"].verdict) == (ADVICE, GOOD)
    columns = dict(dataset.columns) | {"action": np.ones_like(dataset.columns["action"])}
    still = Dataset(columns, dataset.action_set)
    still.description = dataset.description
    assert "action valve never changes" in " ".join(quality_of(still).warnings)
    excitation, floor, usual = checks["excitation"], checks["floor"], plain["floor"]
    assert isinstance(excitation, Excitation) and isinstance(floor, Floor) and isinstance(usual, Floor)
    assert excitation.settling == 50
    assert (floor.gamma, usual.gamma) == (pytest.approx(np.exp(-1 / 50)), 0.99)


# ---------------------------------------------------------------------- plants' logs


def case(
    name: str, action: list[str], obs: list[str], reward: Callable[[dict[str, np.ndarray]], np.ndarray]
) -> Dataset:
    path = SHARED / "cases" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    columns = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
    return logged(*(np.stack([columns[key] for key in keys], axis=1) for keys in (obs, action)), reward(columns))


def heater(columns: dict[str, np.ndarray]) -> np.ndarray:
    return -(((columns["temp"] - columns["setpoint"]) / 10) ** 2)


def by_title(dataset: Dataset) -> dict[str, AbstractCheck]:
    return {check.title: check for check in checks_of(dataset)}


def test_an_excited_heater_is_judged_fine() -> None:
    checks = by_title(case("excited", ["u"], ["temp", "setpoint"], heater))
    assert all(check.verdict in (GOOD, ADVICE) for check in checks.values())
    excitation, markov = checks["excitation"], checks["markov"]
    assert isinstance(excitation, Excitation) and isinstance(markov, Markov)
    # The block's 1 / .0085 s and the sensor's 6 s, in rows of 3 s.
    assert excitation.settling == pytest.approx(-np.log(0.05) / 0.0085 / 3, rel=0.15)
    assert markov.history == 2, "the sensor lags behind the block"


def test_a_heater_under_its_pi_is_warned_of() -> None:
    checks = by_title(case("closed_loop", ["u"], ["temp", "setpoint"], heater))
    assert checks["closed loop"].verdict == checks["coverage"].verdict == LOOK_HERE


def test_two_tanks_moved_at_random_are_judged_fine() -> None:
    checks = by_title(
        case("two_tanks", ["u1", "u2"], ["y1", "y2", "setpoint"], lambda c: -np.abs(c["y2"] - c["setpoint"]))
    )
    assert all(check.verdict in (GOOD, ADVICE) for check in checks.values())


@pytest.mark.parametrize("name", ["incubator_on_off_1", "incubator_random_1", "incubator_random_2"])
def test_a_real_heater_that_was_switched_at_random_was_explored(name: str) -> None:
    path = SHARED / "logs" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with path.open() as file:
        rows = list(csv.DictReader(line for line in file if line.strip()))
    obs = np.array([[float(row[key]) for key in ("t1", "t2", "t3")] for row in rows])
    action = np.array([float(row["heater_on"].strip() == "True") for row in rows])
    checks = by_title(logged(obs, action, -(((obs[:, 2] - 35) / 10) ** 2)))
    assert checks["closed loop"].verdict == checks["coverage"].verdict == GOOD


# ---------------------------------------------------------------------- the command


def test_the_command_warns_prints_json_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "d"
    logged(*pi_loop(400, 0.0, 0)).save(path)
    assert main(["data", "check", str(path), "--pictures", str(tmp_path / "pictures")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "closed loop look here:" in text and "warning: look at closed loop" in text
    names = {"closed-loop", "coverage", "excitation", "floor", "markov", "rewards"}
    assert {file.stem for file in (tmp_path / "pictures").iterdir()} == names
    assert main(["data", "check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["checks"]["closed loop"]["verdict"] == LOOK_HERE
    assert any(warning.startswith("closed loop: ") for warning in found["warnings"])
    for wrong in (["--gamma", "1"], ["--gamma", "nan"], ["--settling", "0"]):
        assert main(["data", "check", str(path), *wrong]) == 2
        assert capsys.readouterr().err.startswith(f"fittedq: {wrong[0]}: ")


def test_doubts_before_learning_are_the_silent_failures_and_a_short_sight() -> None:
    obs, action = pi_loop(2000, dither=0.0, seed=0)
    assert any(sentence.startswith("closed loop: ") for sentence in doubts(logged(obs, action), 0.99))
    moved = held(3000, 5, seed=1)
    slow = logged(lagged(moved, 0.98, 0.01, seed=2), moved)  # settles in ln .05 / ln .98 = 148 rows
    assert doubts(slow, 1 - 1 / 400) == []
    (told,) = doubts(slow, 0.98)
    assert "looks some 50 rows ahead" in told and "--settling" in told


def test_training_from_a_log_tells_its_doubts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obs, action = pi_loop(400, dither=0.0, seed=0)
    logged(obs, action).save(tmp_path / "log")
    words = ["train", "nfqca", "--data", str(tmp_path / "log"), "--steps", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--set", "hidden=4,4", "--set", "epochs=1", "--set", "policy_epochs=1"]) == 0
    assert "note: closed loop: " in capsys.readouterr().err
