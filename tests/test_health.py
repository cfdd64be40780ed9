"""Figures of health and of support, against closed forms and plants whose values are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fittedq
from fittedq.acting.familiar import LEAST_ROWS
from fittedq.actions.base import Box
from fittedq.approx.networks import DeterministicPolicy, QNetwork
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.diagnose.departure import LEAST_RADIUS, Departure
from fittedq.diagnose.units import dead_share
from fittedq.diagnose.values import at_one_limit, continued_overestimation, promise_figures
from fittedq.diagnose.verdicts import GRADES, LIMITS, worst_grade
from fittedq.errors import UserError
from fittedq.types import Components, Transition
from methods import built

BOX = Box((-1.0, -1.0), (1.0, 3.0))


def cut_episodes(reward: list[float], length: int) -> Transition:
    count = len(reward)
    obs, ends = np.zeros((count, 1), np.float32), np.arange(count) % length == length - 1
    return Transition(obs, obs, np.array(reward, np.float32), obs, np.zeros(count, bool), ends)


@pytest.mark.parametrize("gamma", [0.9, 0.99])
def test_a_constant_error_is_seen_through_the_cut(gamma: float) -> None:
    # A reward of 1 without end: q = 1 / (1 − γ), and the critic promises 7 more.
    rows = cut_episodes([1.0] * 400, 200)
    promised = np.full(400, 1 / (1 - gamma) + 7.0)
    over = continued_overestimation(promised, promised, rows, gamma)
    assert len(over) == 2 * (200 - int(np.ceil(np.log(2) / -np.log(gamma))) + 1)
    assert over == pytest.approx(np.full(len(over), 7.0))
    truth = continued_overestimation(promised - 7, promised - 7, rows, gamma)
    assert truth == pytest.approx(np.zeros(len(truth)), abs=1e-9)


def test_each_episode_goes_on_from_its_own_end() -> None:
    rows = cut_episodes([0.0] * 4, 2)
    after = np.array([9.0, 4.0, 9.0, 8.0])
    # G = 0, b = γ² and γ: with γ = ½ they are at most ½.
    over = continued_overestimation(np.array([1.0, 2.0, 3.0, 4.0]), after, rows, 0.5)
    assert over == pytest.approx([(1 - 1) / 0.75, (2 - 2) / 0.5, (3 - 2) / 0.75, (4 - 4) / 0.5])


def test_what_was_seen_whole_is_preferred_and_what_cannot_be_seen_is_left_out() -> None:
    q, bounds = np.zeros(200), (-np.inf, np.inf)
    seen = promise_figures(q, cut_episodes([1.0] * 200, 100), 0.9, bounds, np.full(200, 1e9))
    assert seen["overestimation_worst"] < 0  # the rest is not the critic's
    assert "overestimation_mean" in promise_figures(q, cut_episodes([1.0] * 200, 100), 0.99, bounds, q)
    assert "overestimation_mean" not in promise_figures(q, cut_episodes([1.0] * 200, 100), 0.999, bounds, q)
    assert "overestimation_mean" not in promise_figures(q, cut_episodes([1.0] * 200, 100), 0.99, bounds)


def test_the_share_at_one_limit_is_that_of_one_action_at_one_end() -> None:
    low, high = np.tile([[-1.0, 0.0]], (4, 1)), np.tile([[1.0, 2.0]], (4, 1))
    action = np.array([[-1.0, 2.0], [1.0, 2.0], [-1.0, 1.9], [0.0, 2.0]])
    assert at_one_limit(action, low, high) == 0.75
    assert at_one_limit(0.5 * action, low, high) == 0.0


def test_dead_units_are_counted_in_policy_and_critics() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    critic = built(QNetwork, 3, BOX, (6, 4), keys[0], n_critics=2)
    policy = built(DeterministicPolicy, 3, BOX, (5, 5), keys[1])
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(200, 3)).astype(np.float32), rng.uniform(-1, 1, (200, 2)).astype(np.float32)

    def killed(net: Any, layer: int, units: int, member: Any) -> Any:
        biases = [np.array(bias) for bias in net.biases]
        biases[layer][(*member, slice(None), slice(0, units))] = -1e3
        return biases

    host = jax.tree.map(np.asarray, Components(critic=critic, policy=policy))
    before = dead_share(host, obs, action)
    assert before is not None and before < 0.2
    assert isinstance(host.critic, QNetwork) and isinstance(host.policy, DeterministicPolicy)
    object.__setattr__(host.critic.net, "biases", tuple(killed(host.critic.net, 1, 4, (0,))))
    object.__setattr__(host.policy.net, "biases", tuple(killed(host.policy.net, 0, 5, ())))
    # 4 of critic 0's last layer; of the policy 5, and with them the 5 that read no others.
    assert dead_share(host, obs, action) == pytest.approx((4 + 10) / 30, abs=0.11)
    assert dead_share(Components(), obs, action) is None


def test_every_limit_has_a_grade_beyond_doubt_above_it() -> None:
    for limit in LIMITS:
        assert limit.wrong > limit.most
        grades = [limit.judge(value)["grade"] for value in (limit.most, 1.001 * limit.most, 1.001 * limit.wrong)]
        assert grades[:2] == list(GRADES[:2]) and (grades[2] == "wrong" or np.isinf(limit.wrong))
        assert limit.judge(np.nan)["grade"] == "wrong"
    assert worst_grade({"a": {"grade": "ok"}, "b": {"grade": "doubtful"}}) == "doubtful" and worst_grade({}) is None


# ---------------------------------------------------------------------- support


def departure(policy: Any, logged: Any, rows: int = 2000) -> Departure:
    """Of a log whose actions are `logged(obs, rng)`; q = −Σ a²."""
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    actions = np.asarray(logged(obs, rng), np.float32)
    return Departure.of(obs, obs, actions, np.asarray(policy(obs), np.float32), lambda a: -(a**2).sum(axis=1), BOX)


def controller(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """a = (s_0, 1) with noise of .1 in the first action."""
    noise = rng.normal(0, 0.1, len(obs))
    return np.stack([0.5 * obs[:, 0] + noise, np.ones(len(obs))], axis=1)


def test_actions_of_the_log_are_supported_and_a_step_away_from_them_is_not() -> None:
    near = departure(lambda obs: np.stack([0.5 * obs[:, 0], np.ones(len(obs))], axis=1), controller)
    assert near.unsupported.mean() < 0.05
    assert np.array_equal(near.stayed[~near.unsupported], near.policy[~near.unsupported])
    away = departure(lambda obs: np.stack([0.5 * obs[:, 0] + 0.8, np.ones(len(obs))], axis=1), controller)
    assert away.unsupported.mean() > 0.95
    # Half-widths are 1 and 2: the second action stands where it was, the first is about .8 less what noise covers.
    first, second = away.per_action()
    assert 0.4 < first["median"] < 0.8 and second["p95"] == 0
    # It stays on the line to the nearest action that was tried, at the radius.
    reach = np.linalg.norm((away.stayed - away.tried) / away.half_width, axis=1)[away.unsupported]
    assert reach == pytest.approx(np.full(len(reach), away.radius), rel=1e-4)


def test_a_log_of_everything_supports_everything() -> None:
    def uniform(obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform([-1, -1], [1, 3], (len(obs), 2))

    anything = departure(lambda obs: np.stack([np.sin(3 * obs[:, 1]), 1 + obs[:, 0]], axis=1), uniform)
    assert anything.unsupported.mean() < 0.1
    exact = departure(lambda obs: np.stack([0.5 * obs[:, 0], np.ones(len(obs))], axis=1), lambda obs, _: obs)
    assert exact.radius >= LEAST_RADIUS


def test_gain_is_told_where_it_is() -> None:
    # q = −|a|²: in states with s_1 > .6 the policy takes 0 where the log takes (.5 s_0, 1): a gain of 1 and more.
    def policy(obs: np.ndarray) -> np.ndarray:
        log = np.stack([0.5 * obs[:, 0], np.ones(len(obs))], axis=1)
        return np.where(obs[:, 1:] > 0.6, 0.0, log)

    found = departure(policy, controller)
    where = found.where()
    assert where["coordinate"] == 1 and where["explains"] > 0.9
    gains = [part["gain"] for part in where["parts"]]
    assert gains[-1] > 1 and max(abs(gain) for gain in gains[:-1]) < 0.1
    assert where["parts"][-1]["unsupported"] > 0.9
    figures = found.figures()
    assert figures["unsupported_gain"] > 0.9
    assert figures["q_log"] < figures["q_stayed"] < figures["q_policy"]
    assert figures["q_policy"] == pytest.approx(float(-(found.policy**2).sum(axis=1).mean()))


def test_held_actions_do_not_make_their_own_neighbours() -> None:
    """Random steps, held for 20 rows in a slow plant, cover the box as steps do that are not held."""
    rng = np.random.default_rng(0)
    action = np.repeat(rng.uniform(-1, 1, (150, 2)), 20, axis=0).astype(np.float32)
    obs = np.cumsum(action[:, :1] * 0.05, axis=0) % 1
    policy = np.clip(np.concatenate([-obs, obs], axis=1), -1, 1).astype(np.float32)
    found = Departure.of(obs, obs, action, policy, lambda a: -(a**2).sum(axis=1), Box((-1.0, -1.0), (1.0, 1.0)))
    assert found.unsupported.mean() < 0.25


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(UserError, match=f"found 20 rows, expected at least {LEAST_ROWS}"):
        departure(lambda obs: obs, controller, rows=20)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset `log` and an agent."""
    folder = tmp_path_factory.mktemp("support")
    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, (301, 2)).astype(np.float32)
    action, flags = controller(obs[:-1], rng), np.zeros(300, bool)
    data = Dataset.from_arrays(
        obs=obs[:-1], action=action, reward=-(obs[:-1, 0] ** 2), next_obs=obs[1:], terminated=flags,
        action_low=BOX.low, action_high=BOX.high,
    )  # fmt: skip
    data.save(folder / "log")
    td3 = fittedq.TD3(hidden=(8,))
    agent = fittedq.Agent(td3, 2, BOX, td3.networks(2, BOX, jax.random.key(0)))
    agent.familiarity = fittedq.familiarity(agent, data)
    agent.save(folder / "agent")
    return folder


def test_inspect_judges_a_log_and_draws_the_support(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["inspect", str(run / "agent"), "--data", str(run / "log")]
    assert main([*words, "--health", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    judged = {"at_one_limit", "dead_units", "unfamiliar", "unsupported", "unsupported_gain", "beyond_rewards_share"}
    assert judged <= set(found["verdict"])
    assert not any(name.startswith("overestimation") for name in found["health"])  # the log's returns are another's
    assert found["health"]["unfamiliar"] <= 0.1
    assert found["grade"] in GRADES
    assert main([*words, "--support", str(run / "out")]) == 0
    said = capsys.readouterr().out
    assert "if it stayed" in said and "in all" in said and said.count("unsupported") >= 5
    for name in ("leaves", "stays", "gain"):
        assert (run / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_support_without_a_log_is_a_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run / "agent"), "--support", str(run / "none")]) == 2
    assert "--support: found no log" in capsys.readouterr().err
    assert not (run / "none").exists()
