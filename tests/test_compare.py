"""Controllers beside one another: pairs, intervals, order, pictures, and the command line."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.agent import Agent
from fittedq.baselines import PID, Called, Constant, Tracked
from fittedq.cli.main import main
from fittedq.cli.setpoints import JudgesControl
from fittedq.control.augmentation import Augmentation
from fittedq.data.description import Description
from fittedq.diagnose.paired import Interval
from fittedq.envs.plant import resolve
from fittedq.errors import UserError
from fittedq.runs.compare import compared, rounds
from fittedq.types import Transition

PLANT = '''
import gymnasium
import numpy as np


class Lag(gymnasium.Env):
    """y' = y + .3 (u − y) + noise towards r in 1 … 2 from 0, r' = −(y' − r)², 25 samples; [y, r] observed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-4.0, 4.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.y, self.r, self.taken = 0.0, self.np_random.uniform(1, 2), 0
        return np.array([self.y, self.r], np.float32), {}

    def step(self, action):
        self.y += 0.3 * (float(action[0]) - self.y) + 0.01 * self.np_random.normal()
        self.taken += 1
        return np.array([self.y, self.r], np.float32), -(self.y - self.r) ** 2, False, self.taken == 25, {}


class Unstable(Lag):
    def step(self, action):
        self.y += 1.0
        return np.array([self.y, self.r], np.float32), 0.0, self.y > 9, False, {}


class PI:
    def __init__(self):
        self.total = 0.0

    def __call__(self, obs):
        self.total += obs[1] - obs[0]
        return self.total + 2.0 * (obs[1] - obs[0])


def wrong(obs):
    return [0.0, 0.0]


def failing(obs):
    raise RuntimeError("no sensor")


class Needs:
    def __init__(self, gain):
        self.gain = gain


number = 3
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of code, and an agent of a plant in it that has learned nothing."""
    where = tmp_path_factory.mktemp("compare")
    (where / "plant.py").write_text(PLANT)
    for name, env in (("agent", f"{where}/plant.py:Lag"), ("stranger", "Other-v0")):
        method, box = fittedq.TD3(hidden=(4,)), Box((-4.0,), (4.0,))
        nets = method.networks(2, box, jax.random.PRNGKey(0))
        Agent(method, 2, box, nets, env=env).save(where / name)
    return where


def plant(folder: Path) -> gymnasium.Env:
    return fittedq.NamedEnv(f"{folder}/plant.py:Lag").make()


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    told = capsys.readouterr()
    return code, told.out, told.err


# ---------------------------------------------------------------------- statistics


def test_an_interval_is_student_s() -> None:
    """Of 0 and 2: 1 ± 12.706 (t with one degree of freedom is tan(.475 π)); of one value alone, nothing is known."""
    found = Interval.of(np.array([0.0, 2.0]))
    half = math.tan(0.475 * math.pi)
    assert found == pytest.approx((1.0, 1 - half, 1 + half))
    assert Interval.of(np.array([3.0])) == (3.0, -math.inf, math.inf)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    """1900 of 2000 normal samples of five, within three deviations of that count (.005 each)."""
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    held = np.mean([low <= 0 <= high for _, low, high in map(Interval.of, draws)])
    assert abs(held - 0.95) < 0.015


def test_episodes_of_two_controllers_begin_alike_and_are_disturbed_alike(folder: Path) -> None:
    pair = rounds({"one": Constant((1.0,)), "two": Constant((1.5,))}, resolve(plant(folder)), 3)
    one = next(pair)
    np.testing.assert_array_equal(one["one"].obs[0], one["two"].obs[0])
    # y − y_other forgets nothing but the action: the noise is the same.
    apart = np.asarray(one["two"].next_obs - one["one"].next_obs)[:, 0]
    np.testing.assert_allclose(apart, 0.5 * (1 - 0.7 ** np.arange(1, 26)), atol=1e-6)
    assert next(pair)["one"].obs[0, 1] != one["one"].obs[0, 1]


def test_differences_are_paired(folder: Path) -> None:
    """Returns that vary by the set-point, and a difference that does not: its interval is narrow, theirs is wide."""
    found = fittedq.compare(
        {"none": Constant((0.0,)), "pi": PID(2.0, 1.0, tracked=Tracked(0, setpoint=1), low=-4.0, high=4.0)},
        plant(folder),
        episodes=6,
        tracked=[Tracked(0, setpoint=1, name="y")],
    )
    best, worst = found.rows
    assert (best.name, worst.name, found.first) == ("pi", "none", "none")
    assert best.ahead is not None and worst.ahead is None
    assert best.ahead.mean == pytest.approx(best.mean.mean - worst.mean.mean)
    assert best.ahead == Interval.of(best.returns - worst.returns)
    assert best.control is not None and best.control["measured"]["y"]["steps"] == 6
    assert found.verdict.startswith("pi is ahead of none by ") and found.verdict.endswith("more than chance explains.")


def test_a_log_stands_beside_what_was_played(folder: Path) -> None:
    env = resolve(plant(folder))
    played = [next(rounds({"pi": Constant((1.0,))}, env, 0))]
    rows = played[0]["pi"]
    log = fittedq.Dataset.from_arrays(**rows._asdict(), action_low=-4.0, action_high=4.0)
    found = compared(played, env, log=log)
    assert {row.name: row.returns.tolist() for row in found.rows}["the log"] == pytest.approx([rows.reward.sum()])
    assert found.verdict == "pi was played alone."


# ---------------------------------------------------------------------- the command line


def test_a_pid_that_beats_the_agent_stands_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent, picture = str(folder / "agent"), folder / "out.png"
    words = ("--measured", "0", "--setpoint", "1", "--sample", "2", "--episodes", "4")
    env = f"{folder}/plant.py:Lag"
    code, out, _ = said(
        capsys, "compare", agent, f"{folder}/plant.py:PI", "--env", env, *words, "--trajectories", str(picture)
    )
    lines = out.splitlines()
    assert code == 0 and lines[0].endswith("plant.py:Lag, 4 episodes each")
    assert lines[2].startswith(f"{folder}/plant.py:PI ") and lines[3].startswith(agent)
    assert picture.read_bytes().startswith(b"\x89PNG") and "more than chance explains" in lines[-1]
    # The same episodes as JSON: the environment is the agent's own, trusted by name.
    code, out, _ = said(capsys, "compare", agent, f"{folder}/plant.py:PI", *words, "--json", "--trust-code", env)
    found = json.loads(out)
    first, second = found["controllers"]
    assert code == 0 and (first["name"], second["name"]) == (f"{folder}/plant.py:PI", agent)
    assert found["compared_with"] == agent and first["ahead"]["low"] > 0 and second["ahead"] is None
    assert first["control"]["measured"]["observation 0"]["settled"] == 4


def test_eval_tells_how_set_points_are_held(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--env", f"{folder}/plant.py:Lag", "--episodes", "2", "--measured", "0", "--setpoint", "1")
    table = folder / "out.csv"
    code, out, _ = said(
        capsys, "eval", str(folder / "agent"), *words, "--baseline", "constant:1.5", "--json",
        "--trajectories", str(table),
    )  # fmt: skip
    found = json.loads(out)
    assert code == 0 and found["baseline"]["name"] == "constant:1.5"
    assert found["baseline"]["control"]["effort"] == [0.0]
    _, plain, _ = said(capsys, "eval", str(folder / "agent"), *words[:4], "--json")
    assert json.loads(plain)["returns"] == found["returns"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 2 * 2 * 25 and rows[-1]["action 0"] == "1.5" and rows[0]["observation 0"] == "0.0"
    total = sum(float(row["reward"]) for row in rows if row["controller"] == "constant:1.5" and row["episode"] == "0")
    assert total == pytest.approx(found["baseline"]["returns"][0], rel=1e-5)


def test_what_an_agent_sees_is_what_is_judged() -> None:
    told = Augmentation(error=("0:1",), integral=("0:1", "2=5"), sample=2.0)
    judge = JudgesControl(band=(0.5,))
    assert judge.tracked([told]) == (Tracked(0, setpoint=1, band=0.5), Tracked(2, target=5.0, band=0.5))
    assert (judge.seconds([told]), judge.seconds(), JudgesControl(sample=3.0).seconds([told])) == (2.0, None, 3.0)


def test_a_description_names_what_follows_what(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plant.toml").write_text(
        "time = 't'\nsample = 2.0\n[columns]\nlevel = { role = 'measured', unit = 'cm', set_point = 'wanted' }\n"
        "wanted = { role = 'set-point' }\nflow = { role = 'measured', set_point = 4.0 }\nvalve = { role = 'action' }\n"
    )
    described = Description.read(folder / "plant.toml")
    found = (Tracked(0, setpoint=1, name="level in cm"), Tracked(2, target=4.0, name="flow"))
    judge = JudgesControl(plant=folder / "plant.toml")
    assert judge.described(None, []) == described
    assert (judge.tracked((), described), judge.seconds((), described)) == (found, 2.0)
    named = JudgesControl(measured=("level",), target=(4.0,))
    assert named.tracked((), described) == (Tracked(0, target=4.0, name="level"),)
    # On a plant that lacks the last of its columns, it is said which.
    words = ("compare", "constant", "--env", f"{folder}/plant.py:Lag", "--plant", str(folder / "plant.toml"))
    code, _, err = said(capsys, *words)
    assert code == 2 and "measured: found coordinate 2, expected one of 0 … 1" in err
    table = folder / "named.csv"
    assert said(capsys, *words, "--measured", "level", "--setpoint", "wanted", "--trajectories", str(table))[0] == 0
    assert table.read_text().startswith("controller,episode,sample,seconds,level,set-point of level,valve,reward\n")


@pytest.mark.parametrize("word", ["pid", "lqr"])
def test_words_are_tuned_on_the_plant(word: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either is far ahead of the middle of the actions, which is off by 1 … 2 all the time."""
    from fittedq.baselines import named

    monkeypatch.setattr(named, "RECORDED", 200)
    monkeypatch.setattr(named, "TRIES", 6)
    env = resolve(plant(folder))
    given = named.Circumstances(env, (Tracked(0, setpoint=1),), seed=1)
    tuned, middle = (named.baseline(name, given).evaluate(env, 3).mean() for name in (word, "constant"))
    assert tuned > 0.25 * middle


def test_a_log_without_its_plant_is_a_place_to_compare_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A linear plant, told by its log: a PI is ahead of nothing as it is on the plant itself, and of the log."""
    env = resolve(plant(folder))
    rng = np.random.default_rng(0)
    played = rounds({"log": Called(lambda obs: rng.uniform(-4, 4))}, env, 5)
    rows = Transition(*map(np.concatenate, zip(*(next(played)["log"] for _ in range(4)), strict=True)))
    fittedq.Dataset.from_arrays(**rows._asdict(), action_low=-4.0, action_high=4.0).save(folder / "log")
    words = ("compare", "constant", f"{folder}/plant.py:PI", "--data", str(folder / "log"), "--model")
    code, out, _ = said(
        capsys, *words, "--length", "25", "--episodes", "6", "--measured", "0", "--setpoint", "1", "--json"
    )
    found = json.loads(out)
    assert code == 0 and found["env"] == f"a linear model of {folder}/log with 1 lag"
    assert found["model_explains"][0] > 0.99 and found["model_explains"][1] is None
    assert found["reward_explained"] > 0.5  # of (y' − r)², told by y and u: all but the noise
    _, text, _ = said(capsys, *words, "--length", "25", "--episodes", "2", "--measured", "0", "--setpoint", "1")
    assert re.search(r"^model_explains: 0\.99\d\d, stays$", text, re.MULTILINE)
    rows = {row["name"]: row for row in found["controllers"]}
    assert rows[f"{folder}/plant.py:PI"]["ahead"]["low"] > 0 and len(rows["the log"]["returns"]) == 4
    assert rows[f"{folder}/plant.py:PI"]["control"]["measured"]["observation 0"]["steady_error"] < 0.01


ENV = ("--env", "{}/plant.py:Lag")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("compare", "{}/agent", "pdi", *ENV), "baseline 'pdi' is neither a word nor code"),
        (("compare", "{}/agent", "constant:x", *ENV), "expected numbers, such as constant:0.5"),
        (("compare", "{}/agent", "constant:1,2", *ENV), "Constant(1, 2): found 2 numbers"),
        (("compare", "{}/agent", "pid", *ENV), "baseline 'pid': found no set-point"),
        (("compare", "{}/agent", "cloned", *ENV), "found no log to imitate; name its dataset with --data"),
        (("compare", "{}/agent", "{}/plant.py:wrong", *ENV), "wrong gives an action of shape (2,), expected (1,)"),
        (("compare", "{}/agent", "{}/plant.py:failing", *ENV), "failing raised RuntimeError: no sensor"),
        (("compare", "{}/agent", "{}/plant.py:Needs", *ENV), "Needs could not be made without arguments: TypeError"),
        (
            ("compare", "{}/agent", "{}/plant.py:number", *ENV),
            "found int, expected a controller or a function of observations",
        ),
        (("compare", "{}/agent", "{}/plant.py:PID", *ENV), "has no 'PID'; did you mean 'PI'"),
        (("compare", "{}/agent", "{}/plant.py:nq", *ENV), "has no 'nq'; valid names: "),  # no module it imports
        (("compare", "{}/agent", "constant"), "names code to be run for its environment"),
        (("compare", "{}/agent", "{}/stranger", "constant"), "name the one to compare in with --env"),
        (("compare", "constant"), "found no run that names one; name the one"),
        (("compare", "{}/agent", "constant", *ENV, "--episodes", "0"), "episodes: found 0, expected"),
        (("compare", "pid", *ENV, "--measured", "0", "--setpoint", "7"), "setpoint: found coordinate 7"),
        (("compare", "constant", *ENV, "--measured", "y", "--setpoint", "1"), "found 'y', which is no coordinate"),
        (("compare", "constant", *ENV, "--measured", "0"), "give one --setpoint or one --target for each"),
        (
            ("compare", "constant", *ENV, "--setpoint", "0"),
            "--measured: found 0 measured values, 1 --setpoint",
        ),
        (("compare", "constant", *ENV, "--trajectories", "x.png"), "--trajectories: found no --measured"),
        (("compare", "constant", *ENV, "--band", "1"), "--band: found no --measured"),
        (("eval", "{}/agent", *ENV, "--sample", "2"), "--sample: found no --measured"),
        (("eval", "{}/agent", *ENV, "--setpoint", "1"), "--measured: found 0 measured values, 1 --setpoint"),
        (("compare", "constant", "--model"), "--model: found no --data to fit it to"),
        (("compare", "constant", *ENV, "--lags", "2"), "--lags: found no --model that it belongs to"),
        (
            ("compare", "constant", *ENV, "--measured", "0", "--target", "1", "--band", "1", "2"),
            "--band: found 2 numbers",
        ),
        (
            ("compare", "constant", *ENV, "--measured", "0", "--target", "1", "--trajectories", "x.pdf"),
            "found x.pdf, expected a name that ends in .png or .csv",
        ),
        (("compare", "constant", *ENV, "--measured", "0", "--target", "1", "--sample", "0"), "--sample: found 0"),
        (
            ("compare", "constant", *ENV, "--measured", "0", "--target", "1", "--trajectories", "{}/plant.csv"),
            "plant.csv exists, and is not replaced",
        ),
        (
            ("compare", "pid", "--env", "{}/plant.py:Unstable", "--measured", "0", "--setpoint", "1"),
            "has not come to rest; give it more samples",
        ),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    words: tuple[str, ...], told: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "plant.csv").write_text("mine")
    code, out, err = said(capsys, *(word.format(folder) for word in words))
    assert code == 2 and out == "" and told in err and len(err.strip().splitlines()) == 1
    assert (folder / "plant.csv").read_text() == "mine"


def test_in_python_a_controller_of_another_size_is_named(folder: Path) -> None:
    agent: Any = Agent.load(folder / "agent")
    with pytest.raises(UserError, match=r"its observations have shape \(3,\), the agent's have \(2,\)"):
        fittedq.compare({"agent": agent}, "Pendulum-v1", episodes=1)
