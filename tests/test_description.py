"""One description of a plant: from a file, through a dataset, to what a controller sees, and a first one of a log."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import fittedq
from fittedq.actions.base import Box
from fittedq.cli.main import main
from fittedq.control.augmentation import Augmentation
from fittedq.data.dataset import Dataset, Writer
from fittedq.data.description import Column, Description
from fittedq.data.first_look import first_description
from fittedq.errors import UserError
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from fittedq.types import Transition
from test_dataset import left_in
from test_logs import CASES, HEATER, ROWS, SHOWN, table

PLANT = """
time = "t"
settling = 120
reward = "-((temp - setpoint)/10)**2 - 0.01*d_u**2"

[columns]
temp = { role = "measured", unit = "degC", set_point = "setpoint" }
setpoint = { role = "set-point" }
u = { role = "action", low = 0, high = 255, rate = 20 }

[episode]
gap = 60

[controller]
history = 2
error = ["temp"]
integral = ["temp"]
integral_limit = 500.0
change_penalty = 0.1
"""
SEES = Augmentation(
    history=2,
    error=("0:1",),
    integral=("0:1",),
    integral_limit=500.0,
    rate_limit=(60.0,),
    change_penalty=0.1,
    settling=120.0,
    sample=3.0,
)


def files(folder: Path, plant: str = PLANT, log: str | None = None) -> tuple[Path, Path]:
    (folder / "plant.toml").write_text(plant)
    (folder / "log.csv").write_text(table() if log is None else log)
    return folder / "plant.toml", folder / "log.csv"


def run_of(dataset: Dataset, **settings: Any) -> Run:
    return Run("td3", None, Schedule.offline("td3", 1), data=dataset, settings={"hidden": (2,), **settings})


def test_a_description_travels_from_its_file_to_what_the_controller_sees(tmp_path: Path) -> None:
    plant, log = files(tmp_path)
    assert main(["data", "import", str(log), "--plant", str(plant), "--out", str(tmp_path / "d")]) == 0
    dataset = Dataset.open(tmp_path / "d")
    assert dataset.action_set == Box((0.0,), (255.0,))
    np.testing.assert_allclose(dataset.columns["obs"], ROWS[:-1, 2:])  # rows are raw
    expected = -(((ROWS[:-1, 2] - 93) / 10) ** 2) - 0.01 * np.diff(ROWS[:-1, 1], prepend=ROWS[0, 1]) ** 2
    np.testing.assert_allclose(dataset.columns["reward"], expected, rtol=1e-5)
    assert dataset.description == replace(Description.read(plant), sample=3.0)
    run = run_of(dataset)
    assert run.augmentation == SEES
    assert run.algorithm.gamma == pytest.approx(np.exp(-3 / 120))
    assert run.agent().augmented is not None
    dataset.save(tmp_path / "e")
    assert Dataset.open(tmp_path / "e").description == dataset.limited(Box((0.0,), (100.0,))).description
    # What the user says beside it comes first; a fact is none to choose.
    assert run_of(dataset, history=3).augmentation == replace(SEES, history=3)
    with pytest.raises(UserError, match="setting sample: found 1 s, and the data's rows are 3 s apart"):
        run_of(dataset, sample=1.0)


@pytest.mark.slow
def test_a_run_of_a_described_log_is_resumed_as_it_was(tmp_path: Path) -> None:
    plant, log = files(tmp_path)
    main(["data", "import", str(log), "--plant", str(plant), "--out", str(tmp_path / "d")])
    # Given again as it is without a description: the run's word stays.
    plain = {"history": 1, "error": (), "integral": (), "integral_limit": None, "rate_limit": None}
    settings: dict[str, Any] = {**plain, "change_penalty": 0.0, "settling": None, "sample": None}
    run = run_of(Dataset.open(tmp_path / "d"), **settings)
    assert run.augmentation == Augmentation()
    agent = fittedq.fit(
        "explicit_fqi", tmp_path / "d", steps=1, out=tmp_path / "run", approximator="polynomial", **settings
    )
    assert agent.augmented is None
    assert fittedq.resume(tmp_path / "run", steps=2).augmented is None


def test_options_beside_a_description_come_first(tmp_path: Path) -> None:
    plant, log = files(tmp_path)
    words = ["--obs", "temp", "--reward", "-abs(temp - setpoint)", "--out", str(tmp_path / "d")]
    lean = (
        PLANT.replace('error = ["temp"]', "").replace('integral = ["temp"]', "").replace("integral_limit = 500.0", "")
    )
    plant.write_text(lean)
    assert main(["data", "import", str(log), "--plant", str(plant), *words]) == 0
    dataset = Dataset.open(tmp_path / "d")
    np.testing.assert_allclose(dataset.columns["obs"], ROWS[:-1, 2:3])
    np.testing.assert_allclose(dataset.columns["reward"], -np.abs(ROWS[:-1, 2] - 93), rtol=1e-6)


def test_a_reward_may_be_a_column_that_is_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("t,u,y,Return so far\n0,1,2,3\n3,1,2,3\n6,1,2,3\n")
    words = ["--time", "t", "--action", "u", "--obs", "y", "--reward", "Return so far", "--action-low", "0"]
    assert main(["data", "import", str(log), *words, "--action-high", "2", "--out", str(tmp_path / "d")]) == 0
    assert Dataset.open(tmp_path / "d").columns["reward"].tolist() == [3, 3]


def test_tables_and_a_description_are_one_another() -> None:
    full = replace(HEATER, words={"Auto": 1.0}, fill="hold", length=7, terminated="temp > 120", history=3, gap=9.0)
    assert replace(Description.of(full.described(), "f"), columns={}) == full


@pytest.mark.parametrize(
    ("found", "changed", "said"),
    [
        ("settling = 120", "setling = 120", "plant.toml: setling is unknown; did you mean 'settling'?"),
        ("gap = 60", "gab = 60", "plant.toml: [episode] gab is unknown; did you mean 'gap'?"),
        ("gap = 60", 'gap = "long"', "plant.toml: [episode] gap is 'long', expected a number, not negative"),
        ("history = 2", "history = 2.5", "[controller] history is 2.5, expected a whole number"),
        (
            "history = 2",
            "history = 50",
            "to see 50 observations, and the longest episode has 11 rows",
        ),
        ('"measured"', '"measurd"', "[columns] temp: role 'measurd' is unknown; did you mean 'measured'?"),
        ('set_point = "setpoint"', 'set_point = "setp"', "the set_point of 'temp' is 'setp', which is no column"),
        ('error = ["temp"]', 'error = ["u"]', "the error of 'u', which is no measured column with a set_point"),
        ("low = 0, high = 255", "low = 255, high = 0", "[columns] u: low is 255 and high is 0, expected a lower low"),
        ("rate = 20", "rate = 0", "[columns] u: rate is 0, expected a positive number, in units a second"),
        ("rate = 20", 'rate = "fast"', "[columns] u: rate is 'fast', expected a number"),
        ('role = "set-point"', 'role = "set-point", low = 3', "low, high and rate are an action's"),
        ("(temp - setpoint)", "(tmp - setpoint)", "there is no column 'tmp'; did you mean 'temp'"),
        ("(temp - setpoint)", "(temp - setpoint", "it cannot be read"),
        (
            'role = "measured"',
            'role = "set-point"',
            "plant.toml: [columns] temp: a set_point is what a measured",
        ),
        ("settling = 120", "settling = 1", "found 1 s, which is shorter than a sample of 3 s"),
        ("u = {", "u2 = {", "log.csv has no column 'u2'; did you mean 'u'?"),
        ("low = 0, high = 255", "low = 0, high = 30", "action outside the declared bounds"),
        (
            'time = "t"',
            "sample = 0",
            "log.csv: a rate of an action is in units a second, and no time",
        ),
        ("[columns]", "[columns", "plant.toml is no TOML"),
        ("[columns]", f"deep = {'[' * 5000}{']' * 5000}\n[columns]", "plant.toml is no TOML"),
        ('set_point = "setpoint"', 'set_point = "temp"', "the set_point of 'temp' is 'temp', which is no column"),
        ('time = "t"', "time = 3", "time is 3, expected a text"),
    ],
)
def test_a_wrong_description_is_one_sentence_and_leaves_nothing(
    found: str, changed: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert PLANT.count(found) == 1
    plant, log = files(tmp_path, PLANT.replace(found, changed))
    if "sample" in changed:
        plant.write_text(plant.read_text().replace("gap = 60", "length = 5"))
    if "30" in changed:
        log.write_text(table(ROWS * [1, 2, 1, 1]))
    assert main(["data", "import", str(log), "--plant", str(plant), "--out", str(tmp_path / "d")]) == 2
    sentence = capsys.readouterr().err
    assert said in sentence
    assert sentence.count("\n") == 1
    assert left_in(tmp_path) == ["log.csv", "plant.toml"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"obs": ("temp",)}, "has temp, and runs/a observes 2 numbers"),
        (
            {"columns": {"u": Column("action", low=0, high=100)}},
            "has u between 0 and 100, and runs/a moves it between 0 and",
        ),
        ({"history": 3}, "says history = 3, and runs/a learned with 2"),
        ({"sample": 5.0}, r"says rate_limit = \(100.0,\), and runs/a learned with \(60.0,\)"),
        ({"settling": 7.0}, ""),
    ],
)
def test_a_description_of_another_plant_than_the_agents_is_refused(changed: dict[str, Any], said: str) -> None:
    plant = Description.of(tomllib.loads(PLANT), "plant.toml")
    if "obs" in changed or "columns" in changed:
        plant = replace(plant, error=(), integral=())
    plant = replace(plant, **changed)
    if not said:
        plant.check_controller("runs/a", 2, Box((0.0,), (255.0,)), SEES)
        return
    with pytest.raises(UserError, match=said):
        plant.check_controller("runs/a", 2, Box((0.0,), (255.0,)), SEES)


def test_a_writer_counts_the_longest_episode(tmp_path: Path) -> None:
    def rows(flags: np.ndarray) -> Transition:
        zeros, none = np.zeros((len(flags), 1), np.float32), np.zeros(len(flags), bool)
        return Transition(zeros, zeros, zeros[:, 0], zeros, none, flags)

    flags = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0], bool)
    with Writer(tmp_path / "d") as writer:
        for part in (slice(0, 2), slice(2, 8), slice(8, 12)):
            writer.append(rows(flags[part]))
        assert writer.longest == 7
        writer.append(rows(np.zeros(9, bool)))
        writer.cut()
        writer.append(rows(np.zeros(3, bool)))
        assert writer.longest == 11


# ---------------------------------------------------------------------- a first one


def test_a_first_description_is_read_and_imports_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        [f"2024-03-14 08:00:{3 * k:02}", "ON" if k % 4 else "OFF", *row[2:], "ok"]
        for k, row in enumerate(ROWS.tolist())
    ]
    log = tmp_path / "log.csv"
    log.write_text(
        table(rows, names=["Stamp", "Heater", "Temp °C", "set,point", "note"]).replace("set,point", '"set,point"')
    )
    out = tmp_path / "plant.toml"
    assert main(["data", "describe", str(log), "--out", str(out)]) == 0
    found = Description.read(out)
    assert (found.time, found.obs, found.action) == ("Stamp", ("Temp °C", "set,point"), ("Heater",))
    assert found.columns["note"].role == "ignored"
    assert found.reward == "-(('Temp °C' - 'set,point')/2)**2"
    assert "# sample = 3 " in out.read_text()
    assert main(["data", "import", str(log), "--plant", str(out), "--out", str(tmp_path / "d")]) == 0
    assert len(Dataset.open(tmp_path / "d")) == 11
    capsys.readouterr()
    assert main(["data", "describe", str(log), "--out", str(out)]) == 2
    assert "plant.toml is there already" in capsys.readouterr().err
    assert main(["data", "describe", str(tmp_path), "--out", str(tmp_path / "p")]) == 2
    assert "is no file" in capsys.readouterr().err


def test_a_first_description_of_numbers_alone_asks_for_names(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(table().split("\n", 1)[1])
    with pytest.raises(UserError, match="name the 4 columns with --names"):
        first_description(tmp_path / "log.csv")
    assert 'names = ["t", "u", "temp", "setpoint"]' in first_description(
        tmp_path / "log.csv", ["t", "u", "temp", "setpoint"]
    )


@SHOWN
@pytest.mark.parametrize("name", ["latin1_tab.tsv", "on_off.csv", "iso_time.csv", "padded_header.csv", "gap.csv"])
def test_the_small_logs_import_by_their_first_description(name: str, tmp_path: Path) -> None:
    plant, out = tmp_path / "plant.toml", tmp_path / "d"
    assert main(["data", "describe", str(CASES / name), "--out", str(plant)]) == 0
    assert main(["data", "import", str(CASES / name), "--plant", str(plant), "--out", str(out)]) == 0
    assert len(Dataset.open(out)) == (298 if name == "gap.csv" else 299)


# ---------------------------------------------------------------------- a description beside data or an environment

LEAN = Description.of(tomllib.loads(PLANT), "plant.toml").but(integral=(), integral_limit=0.0, change_penalty=0.0)


def rows_of(said: Description | None) -> Dataset:
    """Two columns and an action, 9 rows of one episode."""
    obs = np.stack([np.arange(10.0), np.full(10, 93.0)], axis=1)
    data = Dataset.from_arrays(
        obs=obs[:-1], action=np.arange(9.0)[:, None] * 20, reward=-np.ones(9), next_obs=obs[1:],
        terminated=np.zeros(9), truncated=np.arange(9) == 8, action_low=0, action_high=255,
    )  # fmt: skip
    data.description = said
    return data


def test_a_description_beside_data_says_what_the_controller_sees_and_its_limits() -> None:
    made = LEAN.but(sample=3.0)
    narrow = {**LEAN.columns, "u": Column("action", low=0, high=200, rate=20)}
    other = LEAN.but(history=4, settling=60.0, columns=narrow)
    for data in (rows_of(made), rows_of(None)):
        said = other if data.description is made else other.but(sample=3.0)
        run = Run("td3", None, Schedule.offline("td3", 1), data=data, settings={"hidden": (2,)}, described=said)
        found = run.augmentation
        assert (found.history, found.settling, found.sample, found.rate_limit) == (4, 60.0, 3.0, (60.0,))
        assert run.limits.high == (200.0,)
        assert run.config()["plant"]["controller"]["history"] == 4
        run.close()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reward": "-abs(temp)"}, "says reward = '-abs.temp.', and the data were imported with '-..temp"),
        ({"obs": ("setpoint", "temp"), "error": ()}, "says obs = setpoint, temp, and the data were imported with temp"),
        ({"sample": 5.0}, "says sample = 5, and the data were imported with 3"),
        ({"gap": 30.0}, "says gap = 30, and the data were imported with 60"),
        ({"obs": ("temp",), "error": ()}, "has temp, and the dataset observes 2 numbers"),
        ({"columns": {**LEAN.columns, "u": Column("action", low=0, high=300)}}, "inside the dataset's box"),
    ],
)
def test_a_description_that_makes_other_rows_than_the_datas_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        rows_of(LEAN.but(sample=3.0)).described(LEAN.but(**changed))
    assert rows_of(LEAN.but(sample=3.0)).described(LEAN.but(sample=3.001)).description is not None


class Heated(gymnasium.Env):
    """Two numbers that stay, and a heater of 0 … 255."""

    observation_space = gymnasium.spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space = gymnasium.spaces.Box(0.0, 255.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        return np.array([20, 93], np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.array([20, 93], np.float32), -1.0, False, False, {}


def test_a_description_beside_an_environment_fills_the_agents_and_fits_it(
    tmp_path: Path,
) -> None:
    said = LEAN.but(sample=3.0)
    loop = {"hidden": (2,), "random_steps": 2, "batch_size": 2, "steps": 4}
    agent = fittedq.train("td3", Heated(), plant=said, out=tmp_path / "run", **loop)
    assert agent.augmented is not None
    assert (agent.augmented.augmentation.history, agent.augmented.limits.high) == (2, (255.0,))
    again = fittedq.resume(tmp_path / "run", env=Heated(), steps=5)
    assert again.augmented == agent.augmented
    narrow = {"columns": {**LEAN.columns, "u": Column("action", low=0, high=100, rate=20)}}
    for changed, words in (
        ({"obs": ("temp",), "error": ()}, "and the environment observes 2 numbers"),
        (narrow, r"actions between \(0\) and \(100\), and the environment's lie between \(0\) and \(255\)"),
    ):
        with pytest.raises(UserError, match=words):
            fittedq.train("td3", Heated(), plant=said.but(**changed), **loop)


@pytest.mark.unannotated
def test_what_is_no_description_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"plant: found 3, expected a Description, or its file"):
        fittedq.train("td3", Heated(), plant=3, steps=4)  # type: ignore[arg-type]


def test_train_takes_a_description_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_of(LEAN.but(sample=3.0)).save(tmp_path / "d")
    (tmp_path / "plant.toml").write_text(PLANT.replace("history = 2", "history = 3"))
    words = ["train", "td3", "--data", str(tmp_path / "d"), "--steps", "1", "--set", "hidden=2,2"]
    words += ["--plant", str(tmp_path / "plant.toml"), "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert fittedq.load(tmp_path / "run" / "last").augmented.augmentation.history == 3  # type: ignore[union-attr]
    (tmp_path / "plant.toml").write_text(PLANT.replace("(temp - setpoint)", "temp"))
    capsys.readouterr()
    assert main([*words[:-1], str(tmp_path / "other")]) == 2
    assert "says reward = " in capsys.readouterr().err and not (tmp_path / "other").exists()
