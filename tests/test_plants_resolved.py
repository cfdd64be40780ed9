"""An environment is resolved once: every way to name one says the same of it, and each kind of run has its trainer."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import fittedq
from fittedq.acting.collect import collect
from fittedq.actions.base import Box
from fittedq.algorithms.ddpg import DDPG
from fittedq.algorithms.explicit_fqi import ExplicitFQI
from fittedq.algorithms.nfqca import NFQCA
from fittedq.cli.main import main
from fittedq.data.dataset import Dataset, Writer
from fittedq.envs.native import Pendulum
from fittedq.envs.plant import resolve
from fittedq.errors import UserError
from fittedq.trainers.choose import CHOICES, choose

SOURCE = Path(fittedq.__file__).parent
VECTOR = gymnasium.make_vec("Pendulum-v1", 2)
KINDS: dict[str, Any] = {
    "id": "Pendulum-v1",
    "object": gymnasium.make("Pendulum-v1"),
    "callable": lambda: gymnasium.make("Pendulum-v1"),
    "vector": VECTOR,
    "jax id": "jax/Pendulum-v1",
    "jax object": Pendulum(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_environment_says_the_same(kind: str) -> None:
    plant = resolve(KINDS[kind], fittedq.Limits(("|a| <= 1",)))
    assert plant.obs_size == 3
    assert resolve(plant) is plant
    nearest = plant.action_set.project(np.full((1, 1), 1.5, np.float32), np.zeros((1, 3), np.float32))
    assert float(np.asarray(nearest)[0, 0]) == pytest.approx(1.0, abs=1e-5)
    assert resolve(KINDS[kind]).action_set == Box((-2.0,), (2.0,))
    made = plant.single().make()
    assert made.reset(seed=1)[0].shape == (3,)
    made.close()
    assert plant.compiled == kind.startswith("jax")
    assert (plant.name is not None) == kind.endswith("id")
    if kind != "vector":
        source = plant.source(2, seed=3)
        assert (source.n_envs, source.obs_size) == (2, 3) and source.action_set == plant.action_set
        source.close()


def test_collecting_knows_what_training_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", "30", "--limit", "|a| <= 0.5"]
    assert main(["data", "collect", "jax/Pendulum-v1", *words, "--out", str(tmp_path / "named")]) == 0
    data = Dataset.open(tmp_path / "named")
    assert 0.4 < np.abs(data.transitions(slice(None)).action).max() <= 0.5 + 1e-6
    assert data.action_set == resolve("jax/Pendulum-v1", fittedq.Limits(("|a| <= 0.5",))).action_set
    with Writer(tmp_path / "object") as writer:
        plant = resolve(Pendulum(), fittedq.Limits(("|a| <= 0.5",)))
        assert list(collect(plant, 30, writer)) == [30]
        writer.cut()
        same = writer.finish()
    for one, other in zip(data.transitions(slice(None)), same.transitions(slice(None)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_table_of_trainers_is_whole() -> None:
    assert {where for where, _ in CHOICES} == {"dataset", "host", "compiled"}
    assert len(CHOICES) == 6
    host, compiled = resolve("Pendulum-v1"), resolve("jax/Pendulum-v1")
    made = {
        (cls, where): choose(cls, plant).settings.__name__
        for cls in (DDPG, NFQCA)
        for where, plant in (("host", host), ("compiled", compiled), ("dataset", None))
    }
    assert made == {
        (DDPG, "host"): "TrainSettings",
        (DDPG, "compiled"): "TrainSettings",
        (DDPG, "dataset"): "FitSettings",
        (NFQCA, "host"): "GrowSettings",
        (NFQCA, "compiled"): "GrowSettings",
        (NFQCA, "dataset"): "FitSettings",
    }
    with pytest.raises(UserError, match="learns no policy, so it cannot collect data"):
        choose(ExplicitFQI, host)


def test_a_dataset_from_elsewhere_is_told_before_data_grow() -> None:
    obs, action = np.zeros((8, 2)), np.zeros((8, 1))
    flags, bounds = np.zeros(8, bool), {"action_low": -2, "action_high": 2}
    data = Dataset.from_arrays(obs=obs, action=action, reward=obs[:, 0], next_obs=obs, terminated=flags, **bounds)
    with pytest.raises(UserError, match="dataset: its observations have 2 numbers"):
        fittedq.train("nfqca", "Pendulum-v1", steps=10, data=data, hidden=(4,))


def test_no_file_outside_the_environments_asks_what_an_environment_is() -> None:
    kinds = {"AbstractJaxEnv", "NamedEnv", "VectorEnv", "HostedEnv", "FlatEnv", "CompiledPlant", "HostPlant", "Env"}

    def asks(file: Path) -> bool:
        calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        asked = (node.args[1] for node in calls if isinstance(node.func, ast.Name) and node.func.id == "isinstance")
        return any(word in kinds for part in asked for word in ast.unparse(part).replace(".", " ").split())

    asking = {file.relative_to(SOURCE).as_posix() for file in SOURCE.rglob("*.py") if asks(file)}
    assert {name for name in asking if not name.startswith("envs/")} == set()
