"""Presets hold what their sources say, and their algorithms take them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fittedq
from fittedq.algorithms import find
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.presets import Preset, as_toml, preset_for, presets
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset
from fittedq.errors import UserError
from fittedq.runs.folder import RunFolder
from fittedq.runs.run import Run
from fittedq.runs.schedule import Schedule
from methods import each

ADAM = {"critic_learning_rate": 3e-4, "policy_learning_rate": 3e-4}
SAC = ADAM | {"gamma": 0.99, "tau": 0.005, "hidden": (256, 256), "batch_size": 256, "replay_size": 1_000_000}
UTD20 = SAC | {"updates_per_step": 20.0, "random_steps": 5_000, "policy_delay": 20, "policy_critic": "mean"}
UTD20["temperature_learning_rate"] = 3e-4
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "redq": ("sac", UTD20 | {"n_critics": 10, "n_target_critics": 2, "layer_norm": False, "dropout": 0.0}),
    "droq": ("sac", UTD20 | {"n_critics": 2, "n_target_critics": 2, "layer_norm": True, "dropout": 0.01}),
    "ddpg-2015": (
        "ddpg",
        {"policy_learning_rate": 1e-4, "critic_learning_rate": 1e-3, "critic_weight_decay": 1e-2, "gamma": 0.99}
        | {"tau": 0.001, "hidden": (400, 300), "batch_size": 64, "replay_size": 1_000_000}
        | {"noise": "ou", "noise_reversion": 0.15, "noise_sigma": 0.2, "noise_mean": 0.0},
    ),
    "td3-2018": (
        "td3",
        SAC
        | {"n_critics": 2, "policy_delay": 2, "smoothing_sigma": 0.2, "smoothing_clip": 0.5, "noise_sigma": 0.1}
        | {"random_steps": 25_000, "updates_per_step": 1.0, "policy_critic": "first"},
    ),
    "sac-2018": ("sac_v", SAC | {"n_critics": 2, "temperature": 1 / 5, "updates_per_step": 1.0}),
    "sac-2018b": (
        "sac",
        SAC
        | {"temperature": None, "target_entropy": None, "temperature_learning_rate": 3e-4, "updates_per_step": 1.0}
        | {"n_critics": 2, "n_target_critics": 2, "policy_critic": "min", "policy_delay": 1},
    ),
    "cal-ql-2023": (
        "cql",
        {"calibrated": True, "alpha": 5.0, "n_actions": 10, "gamma": 0.99, "tau": 0.005, "batch_size": 256}
        | {"critic_learning_rate": 3e-4, "policy_learning_rate": 1e-4},
    ),
    "sac-svg-2021": ("svg", {"horizon": "3", "dynamics": "learned", "tail": "q"}),
    "plant": (
        "td3",
        {
            "hidden": (64, 64),
            "gamma": 0.97,
            "critic_learning_rate": "linear:1e-3:1e-4",
            "policy_learning_rate": "linear:1e-3:1e-4",
            "saturation": 1e-3,
            "noise_sigma": 0.1,
            "noise_reversion": 0.15,
            "n_envs": 8,
            "n_step": 3,
            "updates_per_step": 0.5,
            "batch_size": 128,
            "replay_size": 200_000,
            "random_steps": 2_000,
            "normalize_obs": True,
            "scale_rewards": True,
            "keep": "average",
        },
    ),
    "auto": (
        "xqc",
        {"hidden": (256,) * 4, "updates_per_step": 2.0, "keep": "average"}
        | dict.fromkeys(("critic_learning_rate", "policy_learning_rate", "temperature_learning_rate"), 3e-4),
    ),
}
"""The algorithm of each, and what its paper says (docs: theory, section 4)."""


@pytest.mark.parametrize("name", each("td3-2018", "redq", of=sorted(presets())))
def test_a_preset_is_what_its_source_says(name: str) -> None:
    run = Run(presets()[name].algorithm, "Pendulum-v1", Schedule(steps=1), preset=name, settings={"replay_size": 10})
    run.close()
    algorithm, published = PUBLISHED[name]
    assert run.algorithm.name == algorithm
    settings = run.config()["settings"]
    expected = {key: list(value) if isinstance(value, tuple) else value for key, value in published.items()}
    assert settings["replay_size"] == 10  # what was set wins
    falling = {key: value for key, value in expected.items() if str(value).startswith("linear:")}
    for key, words in falling.items():
        first, last = map(float, words.split(":")[1:])
        assert {"kind": "Linear", "first": first, "last": last}.items() <= settings[key].items()
    same = {key: value for key, value in expected.items() if key not in falling}
    assert same.items() <= (settings | {"replay_size": published.get("replay_size", 1_000_000)}).items()
    left_out = published.keys() - presets()[name].settings.keys()
    usual = vars(find(algorithm)())
    assert all(published[key] == usual[key] for key in left_out)


def test_all_that_a_preset_sets_is_a_setting() -> None:
    for preset in presets().values():
        assert preset.settings.items() <= PUBLISHED[preset.name][1].items()


def test_every_source_can_be_cited() -> None:
    citation = (Path(__file__).parent.parent / "CITATION.cff").read_text()
    references = citation.partition("references:")[2].split("  - type:")[1:]
    for preset in presets().values():
        author, year = re.match(r"(\w+) et al\. (\d{4})", preset.source).groups()  # type: ignore[union-attr]
        assert any(f"family-names: {author}" in one and f"year: {year}" in one for one in references), preset.source


def test_the_run_says_which_preset_it_has_and_goes_on_with_it(tmp_path: Path) -> None:
    small = {"hidden": (4,), "batch_size": 2, "random_steps": 2, "replay_size": 100}
    agent = fittedq.train("td3", "Pendulum-v1", steps=6, out=tmp_path / "run", preset="td3-2018", **small)  # type: ignore[arg-type]
    assert (agent.algorithm.hidden, agent.algorithm.noise_sigma) == ((4,), 0.1)  # type: ignore[attr-defined]
    fittedq.resume(tmp_path / "run", steps=8)
    config = RunFolder(tmp_path / "run").config()
    assert config["preset"] == "td3-2018"
    assert config["settings"]["random_steps"] == 2
    with pytest.raises(UserError, match="keeps its preset"):
        fittedq.resume(tmp_path / "run", steps=9, set={"preset": "redq"})


def test_from_a_dataset_what_it_says_of_collecting_is_left_out() -> None:
    one = np.zeros((4, 1), np.float32)
    data = Dataset.from_arrays(
        obs=one, action=one, reward=one[:, 0], next_obs=one, terminated=one[:, 0] > 0, action_low=-1.0, action_high=1.0
    )
    run = Run("td3", None, Schedule(steps=1), data=data, preset="td3-2018", settings={"hidden": (4,)})
    run.close()
    assert run.config()["settings"]["batch_size"] == 256
    assert "random_steps" not in run.config()["settings"]


@pytest.mark.parametrize(
    ("algorithm", "preset", "says"),
    [
        ("td3", "redq", "preset: redq has the settings of sac, and td3 is trained; .*: plant, td3-2018"),
        ("nfqca", "redq", "presets: none"),
        ("sac", "red", "preset: found 'red'; .*'redq'"),
        (fittedq.SAC(gamma=0.9), "redq", "preset: found 'redq' beside an algorithm"),
    ],
)
def test_a_wrong_preset_is_a_sentence(algorithm: str | AbstractAlgorithm, preset: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fittedq.train(algorithm, "Pendulum-v1", steps=1, preset=preset)


def test_list_shows_presets_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{preset.name} " in shown and preset.source in shown for preset in presets().values())
    assert main(["list", "ddpg"]) == 0
    assert "critic_weight_decay=0.01" in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert [preset["name"] for preset in rows["sac"]["presets"]] == ["droq", "redq", "sac-2018b"]


def test_the_command_line_takes_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "td3", "Pendulum-v1", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main([*words, "--preset", "redq"]) == 2
    assert "--preset: redq has the settings of sac" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


WIDE = {"value_low": -999, "value_high": 999, "scale_rewards": "false"}
TINY = {"hidden": 4, "random_steps": 2, "replay_size": 10, "batch_size": 2} | WIDE


@pytest.mark.slow
def test_auto_trains_what_its_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is one of that algorithm: resuming asks for no word whose meaning may change."""
    given = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]
    words = ["train", "auto", "Pendulum-v1", "--steps", "4", "--out", str(tmp_path / "run"), "--eval-every", "0"]
    assert main([*words, *given]) == 0
    config, chosen = RunFolder(tmp_path / "run").config(), presets()["auto"]
    assert (config["algorithm"], config["preset"]) == (chosen.algorithm, "auto")
    assert {name: config["settings"][name] for name in chosen.settings if name != "hidden"} == {
        name: value for name, value in chosen.settings.items() if name != "hidden"
    }
    assert fittedq.resume(tmp_path / "run", steps=5).algorithm.name == chosen.algorithm
    capsys.readouterr()
    for words in (["list"], ["list", "auto"]):
        assert main(words) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert str(chosen.evidence) in shown and str(chosen.because) in shown


def test_auto_beside_a_preset_is_that_presets_algorithm() -> None:
    small = {"hidden": (4,), "batch_size": 2, "random_steps": 2, "replay_size": 10, "updates_per_step": 1.0}
    run = Run("auto", "Pendulum-v1", Schedule(steps=1), preset="droq", settings=small)
    run.close()
    assert (run.algorithm.name, run.config()["preset"], run.config()["settings"]["dropout"]) == ("sac", "droq", 0.01)


def test_auto_is_for_environments() -> None:
    one = np.zeros((4, 1), np.float32)
    data = Dataset.from_arrays(
        obs=one, action=one, reward=one[:, 0], next_obs=one, terminated=one[:, 0] > 0, action_low=-1.0, action_high=1.0
    )
    with pytest.raises(UserError, match=r"algorithm: found 'auto'.*in an environment"):
        fittedq.fit("auto", data)
    with pytest.raises(UserError, match=r"'autoo' is unknown; .*'auto'"):
        find("autoo")


def test_a_preset_comes_back_from_its_file(tmp_path: Path) -> None:
    for one in presets().values():
        file = tmp_path / f"{one.name}.toml"
        file.write_text(as_toml(one))
        assert preset_for(str(file), one.algorithm) == one
    settings = {"gamma": 1e-5, "hidden": (4,), "normalize_obs": True, "keep": 'a "word"'}
    (tmp_path / "own.toml").write_text(as_toml(Preset("own", "sac", "π", "", settings)))
    assert preset_for(str(tmp_path / "own.toml"), "sac") == Preset("own", "sac", "π", "", settings)


def test_a_run_takes_a_presets_file_and_is_called_after_it(tmp_path: Path) -> None:
    file = tmp_path / "small one.toml"
    file.write_text(as_toml(Preset("", "td3", "", "", {"hidden": (4,), "batch_size": 2, "random_steps": 3})))
    run = Run("td3", "Pendulum-v1", Schedule(steps=1), preset=str(file), settings={"random_steps": 2})
    run.close()
    assert run.config()["preset"] == "small one"
    assert {name: run.config()["settings"][name] for name in ("hidden", "batch_size", "random_steps")} == {
        "hidden": [4],
        "batch_size": 2,
        "random_steps": 2,
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('algorithm = "td3"', "found no settings"),
        ("[settings]", "found no algorithm"),
        ('algorithm = "td3"\n[settings]\ngama = 1', "'gama'; did you mean 'gamma'"),
        ('algorithm = "td3"\n[settings]\ngamma = 2', "gamma: found 2.0"),
        ('algorithm = "sac"\n[settings]', "has the settings of sac, and td3 is trained"),
        ('algorithm = "td3"\nsettings = 3', "settings is 3, expected a table"),
        ("algorithm = 3\n[settings]", "algorithm is 3, expected words"),
        ('algorithm = "td3"\nsetings = 3', "found 'setings'"),
        ("algorithm = ", "is no TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_preset_is_refused(text: str | None, told: str, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=re.escape(told)):
        Run("td3", "Pendulum-v1", Schedule(steps=1), preset=str(file))
