"""`fittedq report`: one page that needs no other, and says what is true."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fittedq
from fittedq.cli.arguments import parse
from fittedq.cli.main import main
from fittedq.cli.train import Train
from fittedq.diagnose.paired import Interval
from fittedq.errors import UserError
from fittedq.pages.again import train_words
from fittedq.pages.blocks import Axis, Curve, Instruction, Lines, Maps, Said, Table, View
from fittedq.pages.page import Page, Section
from fittedq.pages.records import differing_settings, follows_default, run_lengths
from fittedq.runs.folder import RunFolder, what_binds
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from reading import Read

SECTIONS = ["controller", "curve", "does", "trust", "losses", "time", "warnings", "versions", "again"]
TINY = {"hidden": (8,), "batch_size": 8, "random_steps": 20, "chunk": 40}
LOOKS = {"eval_every": 40, "eval_episodes": 2}

PLANT = '''
import gymnasium, numpy as np

class Tank(gymnasium.Env):
    """A level that follows its inflow, seen as a picture of one color."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.level, self.age = float(self.np_random.uniform(-1, 1)), 0
        return self._obs(), {}

    def step(self, action):
        self.level += 0.2 * (float(action[0]) - self.level)
        self.age += 1
        return self._obs(), -abs(self.level - 0.5), False, self.age == 30, {}

    def _obs(self):
        return np.array([self.level, 0.5], np.float32)

    def render(self):
        return np.full((31, 45, 3), 4 * self.age, np.uint8)
'''


@pytest.fixture(scope="module")
def tank(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("tank") / "tank.py"
    file.write_text(PLANT)
    return f"{file}:Tank"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tank: str) -> Path:
    """A run with an interval, a warning, and a method of many settings."""
    out = tmp_path_factory.mktemp("runs") / "one"
    fittedq.train("td3", tank, steps=200, out=out, **LOOKS, **TINY)
    return out


def given(tank: str) -> list[str]:
    return ["--trust-code", tank]


def test_a_page_has_every_section_and_loads_nothing(
    run: Path, tank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(out), "--json", *given(tank)]) == 0
    told, page = json.loads(capsys.readouterr().out), Read.of(out)
    page.check_alone()
    assert page.sections == SECTIONS == list(told["sections"])
    assert [one["kind"] for one in told["sections"]["does"]["blocks"]] == [
        "picture",
        "text",
        *["lines"] * 3,
        "maps",
        "maps",
    ]
    assert told["bytes"] == out.stat().st_size < 600_000
    assert set(told["sections"]["curve"]["blocks"][0]["views"][0]) == {"name", "x", "curves"}


def test_the_same_run_gives_the_same_page(run: Path, tank: str, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(out), *given(tank)]) == 0
    before = out.read_bytes()
    assert main(["report", str(run), "--out", str(out), *given(tank)]) == 0
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "told"),
    [("mine.html", "is not a page that fittedq made"), ("nowhere/page.html", "cannot be written (No such file or")],
)
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_played(
    name: str,
    told: str,
    run: Path,
    tank: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def played(*_: object) -> None:
        raise AssertionError("it was played")

    monkeypatch.setattr("fittedq.pages.report.trust", played)
    (tmp_path / "mine.html").write_text("mine")
    assert main(["report", str(run), "--out", str(tmp_path / name), *given(tank)]) == 2
    assert told in capsys.readouterr().err
    assert [one.read_text() for one in tmp_path.iterdir()] == ["mine"]


def test_what_a_page_says_is_what_the_run_and_the_agent_say(run: Path, tank: str) -> None:
    page = fittedq.report(run, trust_code=[tank], episodes=2)
    told = page.describe()["sections"]
    records = [one for one in RunFolder(run).metrics() if one.get("eval_mean") is not None]
    (view,) = told["curve"]["blocks"][0]["views"]
    evaluation = next(one for one in view["curves"] if one["name"] == "evaluation")
    expected = Interval.of(np.array(records[-1]["eval_returns"]))
    found = [evaluation[end][view["x"].index(records[-1]["step"])] for end in ("y", "low", "high")]
    np.testing.assert_allclose(found, expected, rtol=1e-4)

    agent = fittedq.load(run, trust_code=[tank])
    maps = next(one for one in told["does"]["blocks"] if one["kind"] == "maps" and len(one["axes"]) == 2)
    along = [np.linspace(axis["low"], axis["high"], maps["n"]) for axis in maps["axes"]]
    states = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 2)
    for name, value in (
        ("π: action[0]", agent.act(states)[:, 0]),
        ("q(s, π(s))", agent.value(states, agent.act(states))),
    ):
        held = maps["values"][name]
        levels = np.frombuffer(base64.b64decode(held["levels"]), np.uint8)
        shown = held["low"] + levels / 255 * (held["high"] - held["low"])
        np.testing.assert_allclose(shown, value, atol=0.51 / 255 * (held["high"] - held["low"]) + 1e-5)

    verdicts = next(one for one in told["trust"]["blocks"] if one["kind"] == "verdicts")["verdicts"]
    rows = agent.trajectory(agent.env.trusted([tank]), 300)  # pyright: ignore[reportOptionalMemberAccess]
    from fittedq.runs.health import health_figures

    figures = health_figures(agent, rows)
    assert {"residual_median", "at_one_limit", "actor_fails", "drift_mean"} <= verdicts.keys()
    assert verdicts["residual_median"]["value"] == pytest.approx(figures["residual_median"], rel=1e-5)
    assert page.grade in ("ok", "doubtful", "wrong")
    stages = next(one for one in told["time"]["blocks"] if one["kind"] == "shares")["parts"]
    assert stages["evaluating"] > 0 and stages["training"] > 0


def test_the_command_to_make_a_run_again_makes_it(run: Path, tmp_path: Path) -> None:
    again = Run(
        "sac",
        "Pendulum-v1",
        Schedule(steps=30, eval_every=0),
        seed=3,
        settings={"hidden": (8,), "gamma": 0.9, "history": 2},
        folder=tmp_path / "made",
    )
    config = json.loads(json.dumps(again.config())) | {"history": []}
    again.close()
    for one in (config, RunFolder(run).config()):
        words, notes = train_words(one)
        command = parse(Train, "fittedq train", words)
        made = Run(
            command.algorithm,
            command.named(command.env),
            Schedule(steps=command.steps or 0, eval_every=command.eval_every or 0, eval_episodes=command.eval_episodes),
            seed=command.seed,
            settings=command.assignments(command.set),
        )
        assert what_binds(json.loads(json.dumps(made.config())) | {"history": []}) == what_binds(one)
        assert not notes
        made.close()


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&\u2028"


def test_names_are_texts_whatever_they_hold() -> None:
    axes = [Axis(HOSTILE, 0.0, 1.0, 0.5)] * 2
    blocks = [
        Said(HOSTILE),
        Table([HOSTILE], [[HOSTILE, HOSTILE]], folded=HOSTILE),
        Instruction(HOSTILE, HOSTILE),
        Lines(HOSTILE, HOSTILE, HOSTILE, [View(HOSTILE, [0, 1], [Curve(HOSTILE, [1.0, float("nan")])])] * 2),
        Maps(HOSTILE, axes, {HOSTILE: np.zeros((3, 3))}),
    ]
    page = Page(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, [Section("one", HOSTILE, blocks)], grade="ok")
    read = Read(page.html())
    read.check_alone()
    assert len(read.scripts) == 3 and read.sections == ["one"]
    assert read.data["one-3"]["title"] == HOSTILE and read.data["one-3"]["views"][0]["curves"][0]["y"] == [1.0, None]
    assert read.text.count(HOSTILE) >= 8


def test_what_is_not_there_is_told_in_its_section(tmp_path: Path, tank: str, run: Path) -> None:
    # Code that only a file names is not run unasked: figures of the agent alone are told.
    told = fittedq.report(run).describe()["sections"]
    assert list(told) == SECTIONS
    missing = [block["text"] for block in told["does"]["blocks"] if block["kind"] == "missing"]
    assert any("--trust-code" in text for text in missing)
    # An agent alone: no records.
    agent = fittedq.load(run, trust_code=[tank])
    agent.env = None
    agent.save(tmp_path / "agent")
    told = fittedq.report(tmp_path / "agent").describe()["sections"]
    for name in ("curve", "losses", "time"):
        assert told[name]["blocks"][0] == {"kind": "missing", "text": told["curve"]["blocks"][0]["text"]}
    assert any("--env" in block.get("text", "") for block in told["does"]["blocks"])
    with pytest.raises(UserError, match="is not an agent"):
        fittedq.report(tmp_path / "nothing")


def test_a_run_without_an_agent_says_so(tmp_path: Path) -> None:
    made = Run("td3", "Pendulum-v1", Schedule(steps=30), settings=TINY, folder=tmp_path / "begun")
    made.start()
    made.close()
    page = fittedq.report(tmp_path / "begun")
    told = page.describe()["sections"]
    assert list(told) == SECTIONS and page.grade is None
    assert "holds no saved agent yet" in told["trust"]["blocks"][0]["text"]
    assert told["controller"]["blocks"][0]["text"] == fittedq.TD3.title
    Read(page.html()).check_alone()


def test_a_log_takes_the_place_of_an_environment(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state, action = rng.uniform(-1, 1, (400, 1)).astype(np.float32), rng.uniform(-1, 1, (400, 1)).astype(np.float32)
    after = (0.5 * state + 0.5 * action).astype(np.float32)
    ends = np.arange(400) % 20 == 19
    columns = {"obs": state, "action": action, "reward": -np.abs(after[:, 0]), "next_obs": after}
    ended = {"terminated": np.zeros(400, bool), "truncated": ends}
    data = fittedq.Dataset.from_arrays(**columns, **ended, action_low=-1, action_high=1)
    data.save(tmp_path / "log")
    fittedq.fit("nfqca", tmp_path / "log", steps=2, out=tmp_path / "run", hidden=(8,), epochs=1)
    page = fittedq.report(tmp_path / "run", data=tmp_path / "log")
    told = page.describe()["sections"]
    titles = [block.get("title", "") for block in told["does"]["blocks"]]
    assert any("logged, and what the policy would do" in title for title in titles)
    judged = next(block for block in told["trust"]["blocks"] if block["kind"] == "verdicts")["verdicts"]
    assert "unsupported" in judged and "overestimation_share" not in judged
    assert any("learn" in block.get("text", "") for block in told["trust"]["blocks"])  # it is the log it learned from


def test_seeds_are_one_page_and_other_runs_are_refused(run: Path, tank: str, tmp_path: Path) -> None:
    other = tmp_path / "two"
    fittedq.train("td3", tank, steps=200, out=other, seed=1, **LOOKS, **TINY)
    page = fittedq.report([run, other], trust_code=[tank], episodes=1)
    told = page.describe()
    assert "Seeds 0, 1" in told["subtitle"]
    names = [one["name"] for one in told["sections"]["curve"]["blocks"][0]["views"][0]["curves"]]
    assert names == ["seed 0", "seed 1", "interquartile mean"]
    fittedq.train("td3", tank, steps=200, out=tmp_path / "third", seed=1, **LOOKS, **{**TINY, "gamma": 0.9})
    with pytest.raises(UserError, match="differ in more than their seed"):
        fittedq.report([run, tmp_path / "third"])


def test_grades_are_from_the_worst_verdict(run: Path, tank: str) -> None:
    page = fittedq.report(run, trust_code=[tank], episodes=1)
    grades = [
        one["grade"]
        for block in page.describe()["sections"]["trust"]["blocks"]
        for one in block.get("verdicts", {}).values()
    ]
    assert page.grade == max(grades, key=("ok", "doubtful", "wrong").index)
    assert replace(page, grade=None).describe()["grade"] is None


def test_what_is_asked_for_and_wrong_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        ([], "found no path"),
        ([str(run), "--env", "Nope-v1"], "'Nope-v1' is unknown"),
        ([str(run), "--env", "Pendulum-v1"], "its observations have shape (3,)"),
        ([str(run), "--trust-code", "other"], "--trust-code: found 'other'"),
        ([str(run), "--episodes", "0"], "--episodes: found 0"),
    ):
        assert main(["report", *words]) == 2
        assert told in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_a_schedule_is_told_as_a_command_takes_it(run: Path) -> None:
    config = RunFolder(run).config()
    rate = {"kind": "Linear", "first": 0.001, "last": 0.0, "updates": None}
    words, _ = train_words({**config, "settings": {**config["settings"], "critic_learning_rate": rate}})
    assert "--set=critic_learning_rate=linear:0.001:0.0" in words


def test_a_schedule_of_usual_ends_and_a_length_is_trained_again_with_that_length(run: Path) -> None:
    rate = {"kind": "Linear", "first": 0.001, "last": 0.0001, "updates": 7}
    config = {**RunFolder(run).config(), "algorithm": "explicit_fqi", "settings": {"critic_learning_rate": rate}}
    assert "--set=critic_learning_rate=linear:0.001:0.0001:7" in train_words(config)[0]


def test_what_a_run_fills_into_a_default_is_no_setting_that_differs() -> None:
    rate = {"kind": "Linear", "first": 0.001, "last": 0.0001, "updates": None}
    assert follows_default({**rate, "updates": 3}, rate, {3}) and not follows_default({**rate, "last": 0.0}, rate, {3})
    assert not follows_default(rate, {**rate, "updates": 3}, {3}) and not follows_default(0.001, None, {3})
    config = {
        "algorithm": "explicit_fqi",
        "env": None,
        "data": "log",
        "steps": 40,
        "settings": {"critic_learning_rate": {**rate, "updates": 20}},
        "history": [{"step": 20, "steps": [20, 40]}],
    }
    assert run_lengths(config) == {20, 40} and not differing_settings(config)
    config["settings"]["critic_learning_rate"]["updates"] = 7
    assert [row[:2] for row in differing_settings(config)] == [("critic_learning_rate", "linear:0.001:0.0001:7")]
