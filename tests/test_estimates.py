"""What a controller is worth, told from a log: against closed forms, exact reductions, and what must be refused."""

import dataclasses
import json
from functools import cache
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import fittedq
from fittedq.acting.episodes import Memoryless, Remembering
from fittedq.actions.base import Box
from fittedq.baselines import PID, Constant, Tracked
from fittedq.bellman import return_range
from fittedq.cli.main import main
from fittedq.control.augmentation import Augmentation
from fittedq.control.state import AugmentedState
from fittedq.data.blocks import split
from fittedq.data.dataset import Dataset
from fittedq.data.sketch import shared_rows, sketch_of
from fittedq.diagnose.paired import Interval
from fittedq.envs.native import AbstractPhysics
from fittedq.errors import UserError
from fittedq.estimates.backing import Backing
from fittedq.estimates.chain import Chain
from fittedq.estimates.deciding import Controlled
from fittedq.estimates.estimate import Grounds, estimate, estimates, select, span
from fittedq.estimates.evidence import Evidence, OneEstimate
from fittedq.estimates.fitted_q import FittedQ
from fittedq.estimates.judge import agreement, combined, verdict
from fittedq.estimates.ratio import density_ratios
from fittedq.estimates.result import Estimate
from fittedq.estimates.truth import true_returns
from fittedq.estimates.weighted import Weighted
from fittedq.problems.lqr import LinearQuadratic

BOX = Box((-20.0,), (20.0,))
GAMMA = 0.8


def plant(noise: float) -> LinearQuadratic:
    return LinearQuadratic(
        A=np.array([[1.0, 0.2], [0.0, 0.9]]),
        B=np.array([[0.0], [0.5]]),
        Q=np.diag([1.0, 0.1]),
        R=np.array([[0.1]]),
        W=noise * np.eye(2),
        gamma=GAMMA,
    )


@cache
def log(noise: float = 0.01, episodes: int = 24, length: int = 20, seed: int = 0, wide: float = 1.0) -> Dataset:
    """Episodes under a = −.5 s₀ and wide noise."""
    true, rng = plant(noise), np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (episodes, 2)) * [2, 1]
    columns: list[list[np.ndarray]] = []
    for step in range(length):
        action = -0.5 * obs[:, :1] + wide * rng.normal(size=(episodes, 1))
        reward = -np.einsum("bi,ij,bj->b", obs, true.Q, obs) - np.einsum("bi,ij,bj->b", action, true.R, action)
        after = obs @ true.A.T + action @ true.B.T + np.sqrt(noise) * rng.normal(size=obs.shape)
        ends = np.full(episodes, step + 1 == length)
        columns.append([obs, action, reward, after, np.zeros(episodes, bool), ends])
        obs = after
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    stacked = [np.stack(column, axis=1) for column in zip(*columns, strict=True)]
    flat = {name: part.reshape(-1, *part.shape[2:]) for name, part in zip(names, stacked, strict=True)}
    return Dataset.from_arrays(**flat, action_low=-20.0, action_high=20.0)


def gained(gain: np.ndarray) -> Memoryless:
    return Memoryless(lambda obs: -obs @ gain.T, 2, BOX)


def truth(gain: np.ndarray, data: Dataset, horizon: int, noise: float) -> float:
    """E Σ_{t<H} γᵗ r_t from the first states, in closed form."""
    starts = np.array([data.columns["obs"][start] for start, _ in data.episodes()], np.float64)
    true = plant(noise)
    moments = true.discounted_moments(gain, np.zeros((1, 1)), starts.T @ starts / len(starts), horizon)
    return -float(np.trace((true.Q + gain.T @ true.R @ gain) @ moments))


GAINS = [scale * plant(0.0).gain for scale in (1.0, 0.3, 0.0, -0.1)]


@cache
def judged() -> dict[str, Estimate]:
    names = ("best", "weak", "none", "wrong")
    return estimates({name: gained(gain) for name, gain in zip(names, GAINS, strict=True)}, log(), gamma=GAMMA)


def test_intervals_hold_the_closed_form() -> None:
    for (name, found), gain in zip(judged().items(), GAINS[:3], strict=False):
        true = truth(gain, log(), found.horizon, 0.01)
        assert found.low < true < found.high, name
        assert found.high - found.low < 0.8 * abs(true), name
        assert set(found.parts) == {"fitted_q", "weighted", "model"} and found.starts == 24


def test_better_and_worse_than_the_log_are_told() -> None:
    assert judged()["best"].verdict == "better than the log"
    assert judged()["wrong"].verdict != "better than the log" and judged()["wrong"].value < judged()["none"].value
    pair = {"bad": gained(GAINS[2]), "good": gained(GAINS[0])}
    name, found = select(pair, log(), gamma=GAMMA, horizon=5)
    assert name == "good" and found["good"].low > found["bad"].low


@cache
def without_a_model() -> tuple[Evidence, float]:
    """Evidence in which the model's q is 0, so that an estimator has the log alone; and the closed form."""
    data, gain = log(0.0), GAINS[1]
    deciding = Controlled.of(gained(gain), data)
    chain = Chain.of(data, deciding.sees, settling=None, memory=1)
    grounds = Grounds.of(chain, GAMMA, 25, "first", 0)
    evidence = Evidence.of(chain, grounds.model, deciding, grounds.begin, GAMMA, 25, 0, judged=True)
    reward = np.tile(chain.reward[evidence.rows], (25, 1))
    blank = dataclasses.replace(evidence, residual=reward, crossed=np.zeros(1))
    return blank, truth(gain, data, 25, 0.0)


def test_fitted_q_evaluation_by_itself_comes_to_the_closed_form() -> None:
    """q of a linear controller is quadratic, and its features hold squares."""
    evidence, true = without_a_model()
    part = FittedQ()(evidence)
    assert part is not None and part.value == pytest.approx(true, rel=1e-3)


def test_weights_are_the_ratio_of_two_known_densities() -> None:
    """Rows of N(0, 2²) weighed as N(1, .5²) have its mean and its deviation; what lies elsewhere weighs nothing."""
    rng = np.random.default_rng(0)
    logged, visited = 2 * rng.normal(size=(2_000, 1)), 1 + 0.5 * rng.normal(size=(2, 300, 1))
    share = np.array([[0.6 / 300], [0.3 / 300]]) * np.ones((2, 300))
    weights = density_ratios(logged, np.arange(2_000) // 50, visited, share)
    np.testing.assert_allclose(weights.mean(axis=1), [0.6, 0.3])
    for row in weights:
        mean = np.average(logged[:, 0], weights=row)
        assert abs(mean - 1) < 0.15
        assert abs(np.sqrt(np.average((logged[:, 0] - mean) ** 2, weights=row)) - 0.5) < 0.15
    assert weights[:, np.abs(logged[:, 0] - 1) > 3].max() < 0.01 * weights.max()


def test_a_model_that_errs_by_one_in_every_sample_is_corrected() -> None:
    evidence, _ = without_a_model()
    off = dataclasses.replace(evidence, residual=np.ones_like(evidence.residual), crossed=np.array([-3.0]))
    total = float((GAMMA ** np.arange(25)).sum())
    for estimator in (FittedQ(), Weighted()):
        part = estimator(off)
        assert part is not None and part.value == pytest.approx(-3.0 + total, rel=1e-6)


def test_what_an_augmented_state_remembers_is_in_the_rows() -> None:
    """A controller with a history that reads the newest observation alone is the one without."""
    gain = GAINS[1]
    state = AugmentedState(Augmentation(history=2), 2, BOX)
    remembering = Remembering(lambda seen: -seen[:, :2] @ gain.T, state)
    given: dict[str, Any] = {"gamma": GAMMA, "horizon": 8, "memory": 2}
    one, two = (estimate(controller, log(), **given) for controller in (remembering, gained(gain)))
    for name in ("fitted_q", "weighted", "model"):
        assert one.parts[name].value == pytest.approx(two.parts[name].value, rel=1e-4), name


def test_a_history_is_seen_where_it_matters() -> None:
    """A controller of the observation before is no controller of the newest one, in the rows and in the model."""
    state = AugmentedState(Augmentation(history=2), 2, BOX)
    late = Remembering(lambda seen: -seen[:, 2:4] @ GAINS[0].T, state)
    data = log()
    deciding = Controlled.of(late, data)
    chain = Chain.of(data, deciding.sees, settling=None, memory=None)
    begun = deciding.goes_on(chain, np.arange(5, 9))
    np.testing.assert_allclose(begun.u, -data.columns["obs"][5:9] @ GAINS[0].T, rtol=1e-5)
    after, _ = deciding.step(begun.memory, np.tile(begun.x, 1))
    np.testing.assert_allclose(after, -begun.x[:, :2] @ GAINS[0].T, rtol=1e-5)


def test_a_pi_is_judged_by_the_model_alone() -> None:
    pi = PID(1.0, 0.2, tracked=Tracked(0, target=0.0), low=-20.0, high=20.0, dt=1.0)
    found = estimate(pi, log(), gamma=GAMMA, horizon=6)
    assert set(found.parts) == {"model"} and found.effective_rows is None
    assert "remembers what no row of a log holds" in found.agreement


def test_a_log_of_one_controller_cannot_tell_of_another() -> None:
    found = estimate(gained(GAINS[0] * 4), log(wide=0.01), gamma=GAMMA, horizon=8, memory=1)
    assert found.verdict == "cannot tell" and "deviations from the log's policy" in found.sentence()
    same = estimate(Memoryless(lambda obs: -0.5 * obs[:, :1], 2, BOX), log(wide=0.01), gamma=GAMMA, horizon=8, memory=1)
    assert same.backing.both > 0.8 and same.low < same.log.mean < same.high


def test_the_log_s_own_return_is_counted_from_the_rows() -> None:
    data = log()
    found = estimate(gained(GAINS[0]), data, gamma=GAMMA, horizon=20)
    weights = GAMMA ** np.arange(20)
    own = [float(weights @ data.columns["reward"][start:stop]) for start, stop in data.episodes()]
    assert found.log.mean == pytest.approx(np.mean(own), rel=1e-5)


class Falling(AbstractPhysics[jnp.ndarray]):
    """s' = s − 1 + a, r = s, over where s < .5."""

    length: int = eqx.field(static=True, default=3)

    @property
    def obs_size(self) -> int:
        return 1

    @property
    def action_set(self) -> Box:
        return Box((-1.0,), (1.0,))

    @property
    def episode_length(self) -> int:
        return self.length

    def begin(self, key: Any) -> Any:
        return jnp.full(1, 4.0)

    def observe(self, inner: Any) -> Any:
        return inner

    def recall(self, obs: Any) -> Any:
        return obs

    def transition(self, inner: Any, action: Any, key: Any) -> Any:
        after = inner - 1.0 + action
        return after, inner[0], after[0] < 0.5


def test_a_true_return_runs_past_a_time_limit_and_stops_at_an_end() -> None:
    still = Constant((0.0,))
    expected = 4 + 0.5 * 3 + 0.25 * 2 + 0.125 * 1
    np.testing.assert_allclose(true_returns(still, Falling(), gamma=0.5, horizon=9, number=2), [expected] * 2)
    found = true_returns(still, Falling(), gamma=1.0, horizon=2, starts=[[2.0], [9.0]])
    np.testing.assert_allclose(found, [3.0, 17.0])
    assert true_returns(still, "Pendulum-v1", gamma=0.9, horizon=1, number=1)[0] < 0
    with pytest.raises(UserError, match="starts: found them"):
        true_returns(still, "Pendulum-v1", gamma=0.9, horizon=3, starts=[[0.0, 0.0, 0.0]])


# ---------------------------------------------------------------------- from three to one


def part(value: float, error: float) -> OneEstimate:
    return OneEstimate(value, error, "")


def test_ends_are_cut_to_what_rewards_allow() -> None:
    """No interval reaches above 0 where no reward does, and brute force over episodes of 1 to 4 samples agrees."""
    found = judged()["none"]
    columns = log().columns["reward"]
    assert found.rewards == (columns.min(), columns.max()) and found.allowed[1] == found.rewards[1] < 0.01
    ends = [sum(0.5**t * reward for t in range(length)) for length in range(1, 5) for reward in (-3.0, 2.0)]
    assert return_range((-3.0, 2.0), 0.5, 4) == pytest.approx((min(ends), max(ends)))
    ends = [sum(0.5**t * reward for t in range(length)) for length in range(1, 5) for reward in (-3.0, -2.0)]
    assert return_range((-3.0, -2.0), 0.5, 4) == pytest.approx((min(ends), max(ends)))
    short = Dataset({**log().columns, "reward": np.clip(log().columns["reward"], -0.1, 0.0)}, BOX)
    cut = estimate(gained(GAINS[3]), short, gamma=GAMMA, horizon=30)
    assert cut.allowed[0] <= cut.low <= cut.value <= cut.high <= 0.0 and "Its ends are cut" in cut.notes[-1]


def test_parts_are_weighed_by_their_errors_and_widened_by_their_differences() -> None:
    assert combined([part(1.0, 0.1), part(1.0, 1e6)]) == pytest.approx((1.0, 0.1), rel=1e-4)
    assert combined([part(0.0, 1.0), part(2.0, 1.0)]) == pytest.approx((1.0, np.sqrt(2)))
    assert combined([part(0.0, 1.0), part(0.2, 1.0)]) == pytest.approx((0.1, 1.0))
    assert "agree" in agreement({"a": part(0, 1), "b": part(1, 1)})
    assert agreement({"a": part(0, 1), "b": part(5, 1)}) == "a and b differ by 5: more than their errors."


def test_verdicts() -> None:
    backed, one = Backing(1.0, 1.0, 1.0), Interval(10.0, 9.0, 11.0)
    assert verdict(11, 12, one, backed, 50.0)[0] == "better than the log"
    assert verdict(8, 9.5, one, backed, 50.0)[0] == "worse than the log"
    assert verdict(9.2, 10.8, one, backed, None)[0] == "as good as the log"
    wide = verdict(5, 15, one, backed, 50.0)
    assert wide[0] == "cannot tell" and "is wide" in wide[1][0]
    assert verdict(11, 12, one, backed, 3.2) == ("cannot tell", ("its weights rest on 3.2 rows",))
    assert verdict(11, 12, one, Backing(1.0, 0.1, 0.1), 50.0)[1] == (
        "in 90% of the time it is at states that are far from the log's",
    )


# ---------------------------------------------------------------------- held-out rows


def test_rows_are_known_again() -> None:
    data, other = log(), log(seed=1)
    half = Dataset({name: column[:240] for name, column in data.columns.items()}, data.action_set)
    assert shared_rows(sketch_of(data), data) == 1.0 and shared_rows(sketch_of(data), other) == 0.0
    assert shared_rows(sketch_of(half), half) == 1.0
    assert shared_rows(sketch_of(half), data) == pytest.approx(0.5)


def test_a_large_set_is_known_by_a_sketch() -> None:
    rng = np.random.default_rng(0)

    def rows(count: int) -> dict[str, np.ndarray]:
        numbers = rng.normal(size=(count, 4)).astype(np.float32)
        flags = np.zeros(count, bool)
        return {
            "obs": numbers[:, :1],
            "action": numbers[:, 1:2],
            "reward": numbers[:, 2],
            "next_obs": numbers[:, 3:],
            "terminated": flags,
            "truncated": flags,
        }

    mine, theirs = rows(20_000), rows(20_000)
    both = {name: np.concatenate([mine[name][:5_000], theirs[name][:15_000]]) for name in mine}
    box = Box((-9.0,), (9.0,))
    assert shared_rows(sketch_of(Dataset(mine, box)), Dataset(both, box)) == pytest.approx(0.25, abs=0.08)


def test_a_log_is_split_by_blocks(tmp_path: Any) -> None:
    data = log()
    learn, held_out = split(data, tmp_path / "learn", tmp_path / "held", share=0.25)
    assert len(held_out.episodes()) == 6 and len(learn.episodes()) == 18
    assert shared_rows(sketch_of(learn), held_out) == 0.0 and shared_rows(sketch_of(data), held_out) == 1.0
    assert sorted(np.concatenate([learn.columns["reward"], held_out.columns["reward"]])) == sorted(
        data.columns["reward"]
    )
    one = Dataset({**data.columns, "truncated": np.zeros(len(data), bool)}, data.action_set)
    with pytest.raises(UserError, match="share: found 0"):
        split(one, tmp_path / "a", tmp_path / "b", share=0.0)
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------------- what is refused


def refused(match: str, controller: object, data: Dataset, **given: Any) -> None:
    with pytest.raises(UserError, match=match):
        estimate(controller, data, **{"gamma": GAMMA, **given})


def test_bad_input_is_a_sentence() -> None:
    data, one = log(), gained(GAINS[0])
    refused("gamma: found none", one, data, gamma=None)
    refused("gamma: found 1.2, expected a discount", one, data, gamma=1.2)
    refused("gamma: found 0", one, data, gamma=0)
    refused("horizon: with gamma 1", one, data, gamma=1.0)
    refused("horizon: with gamma 0.9999", one, data, gamma=0.9999)
    refused("horizon: found 0", one, data, horizon=0)
    refused("starts: found 'second'", one, data, starts="second")
    refused(r"starts: found .* \[k, 2\]", one, data, starts=[[1.0]])
    refused(r"starts: found .* \[k, 2\]", one, data, starts=3)
    refused("starts: found .* within 1,000,000 deviations", one, data, starts=[[1.0, 1e300]])
    refused("memory: found 1001", one, data, memory=1001)
    refused("settling: found 0", one, log(episodes=2), settling=0)
    refused("memory: found 0", one, data, memory=0)
    refused("data: found 1 block", one, log(episodes=1), settling=15)
    refused("found 2 numbers, the log's plant takes 1 actions", Constant((0.0, 1.0)), data)
    still = Dataset({**data.columns, "action": np.zeros_like(data.columns["action"])}, data.action_set)
    refused("data: action 0 never changes", one, still)
    holed = Dataset({**data.columns, "reward": np.full(len(data), np.nan, np.float32)}, data.action_set)
    refused("data: the data hold NaN", one, holed)
    refused("gives the action", Memoryless(lambda obs: np.full((len(obs), 1), np.nan), 2, BOX), data)


def test_two_agents_with_two_discounts_need_a_third() -> None:
    assert span({"one": gained(GAINS[0])}, log(), 0.5, None) == (0.5, 9)
    assert span({"one": gained(GAINS[0])}, log(), 1.0, 7) == (1.0, 7)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a dataset, its parts, and a tiny run that learned from one of them."""
    folder = tmp_path_factory.mktemp("estimates")
    log(episodes=40).save(folder / "log")
    assert (
        main(["data", "split", str(folder / "log"), "--out", str(folder / "a"), "--held-out", str(folder / "b")]) == 0
    )
    small = {"hidden": (8, 8), "batch_size": 16, "gamma": GAMMA}
    fittedq.fit("td3_bc", str(folder / "a"), steps=2, out=folder / "run", **small)  # type: ignore[arg-type]
    return folder


def test_a_split_says_where_too_few_blocks_are_held_out_to_judge_by(
    run: Any, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    def said(share: str) -> str:
        parts = ["--out", str(tmp_path / f"a{share}"), "--held-out", str(tmp_path / f"b{share}"), "--share", share]
        assert main(["data", "split", str(run / "log"), *parts]) == 0
        return capsys.readouterr().err

    assert said("0.25") == ""  # 10 of 40 episodes, which is enough
    assert "9 blocks are held out, too few" in said("0.24")
    refused("larger share", gained(GAINS[0]), Dataset.open(tmp_path / "b0.24"), settling=10**6)


def test_the_command_line_tells_what_python_tells(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", str(run / "run"), "--data", str(run / "b"), "--horizon", "5", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    found = fittedq.estimate(fittedq.load(run / "run"), run / "b", horizon=5).describe()
    assert told.keys() - {"path", "data"} == found.keys() and told["value"] == pytest.approx(found["value"])
    assert found["gamma"] == GAMMA and "held out of" in found["notes"][0]


def test_the_command_line_selects(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(run / "b"), "--horizon", "5", "--starts", "0.5,0", "--starts", "1,0", "--select"]
    assert main(["estimate", str(run / "run"), "constant:0.0", *given]) == 0
    out = capsys.readouterr().out
    assert "constant:0.0:" in out and f"{run / 'run' / 'last'}:" in out and "take " in out


def test_rows_that_were_learned_from_are_refused(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for data in ("a", "log"):
        assert main(["estimate", str(run / "run"), "--data", str(run / data)]) == 2
        assert "the agent learned from" in capsys.readouterr().err
    agent = fittedq.load(run / "run")
    assert agent.learned is not None and shared_rows(agent.learned, log(seed=3)) == 0.0
    assert main(["estimate", "pid", "--data", str(run / "b")]) == 2
    assert "is made for a plant" in capsys.readouterr().err


def test_a_log_of_another_plant_is_refused(run: Any) -> None:
    agent, data = fittedq.load(run / "run"), log(seed=3)
    wide = Dataset(
        {**data.columns, "obs": np.tile(data.columns["obs"], 2), "next_obs": np.tile(data.columns["next_obs"], 2)}, BOX
    )
    refused("data: found rows of 4 observation", agent, wide)
    refused("data: found actions between", agent, Dataset(data.columns, Box((-1.0,), (1.0,))))
