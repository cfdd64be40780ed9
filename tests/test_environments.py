"""Environments as they are: unusual ones work, broken ones are a sentence, names from files run no code unasked."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

import fittedq
from fittedq.cli.main import main
from fittedq.cli.train import folder_name
from fittedq.data.dataset import Dataset
from fittedq.envs.gym import GymSource, make_env, make_flat
from fittedq.envs.registry import NamedEnv
from fittedq.errors import EnvError, UserError
from strange_envs import Shaped

TINY: dict[str, Any] = {"hidden": (8,), "batch_size": 8, "replay_size": 200, "random_steps": 20}
FLAGS = ["--set", "hidden=8,", "--set", "batch_size=8", "--set", "random_steps=20", "--set", "replay_size=200"]
IDLE = np.zeros((1, 2), np.float32)


class Broken(Shaped):
    """Right until step `at` of its life, then one fault."""

    def __init__(self, fault: str = "none", at: int = 3):
        super().__init__()
        self.fault, self.at, self.lived = fault, at, 0

    def step(self, action: Any) -> Any:  # noqa: C901 - a case for each fault
        obs, reward, terminated, truncated, info = super().step(action)
        self.lived += 1
        if self.lived != self.at:
            return obs, reward, terminated, truncated, info
        match self.fault:
            case "raise":
                raise ZeroDivisionError("no current")
            case "sys.exit":
                sys.exit(3)
            case "os._exit":
                os._exit(3)
            case "abort":
                os.abort()
            case "hang":
                time.sleep(600)
            case "four":
                return obs, reward, terminated, info
            case "none at all":
                return None
            case "words":
                return obs, "much", terminated, truncated, info
            case "rewards":
                return obs, np.ones(2), terminated, truncated, info
            case "complex":
                return obs, 1j, terminated, truncated, info
            case "no float":
                return obs, -(10**400), terminated, truncated, info
            case "flag":
                return obs, reward, "yes", truncated, info
            case "ragged":
                return [obs, obs[:1]], reward, terminated, truncated, info
            case "missing":
                return None, reward, terminated, truncated, info
            case "broadcast":
                return obs[:1], reward, terminated, truncated, info
        return obs, reward, terminated, truncated, info


FAULTS = {
    "raise": "its step raised ZeroDivisionError: no current",
    "sys.exit": "its step raised SystemExit: 3",
    "four": "its step returned 4 values, expected five",
    "none at all": "its step returned one value of type NoneType, expected five",
    "words": "reward: found 'much', expected real numbers",
    "rewards": r"reward: found shape \(2,\), expected one number",
    "complex": "reward: found 1j, expected real numbers",
    "no float": "reward is -inf, expected a finite number",
    "flag": "terminated: found 'yes', expected real numbers",
    "ragged": "observation: found .*, expected an array of numbers",
    "missing": "observation: found None, expected real numbers",
    "broadcast": r"observation: found shape \(1,\), expected \(3,\)",
}


@pytest.mark.parametrize(("fault", "sentence"), FAULTS.items(), ids=FAULTS)
def test_a_fault_is_one_sentence_with_the_environment_and_the_step(fault: str, sentence: str) -> None:
    source = GymSource(Broken(fault))
    for _ in range(2):
        source.step(IDLE)
    with pytest.raises(EnvError, match=rf"^environment Broken, step 3: {sentence}") as caught:
        source.step(IDLE)
    assert "\n" not in str(caught.value)
    if fault == "raise":
        told = caught.value.__cause__
        assert told is not None
        assert isinstance(told.__cause__, ZeroDivisionError), "the cause is chained"


def test_a_fault_says_in_which_of_several_environments() -> None:
    lives = iter([99, 2])
    source = GymSource(lambda: Broken("raise", next(lives)), n_envs=2)
    source.step(np.zeros((2, 2), np.float32))
    with pytest.raises(EnvError, match="step 4: sub-environment 1: its step raised ZeroDivisionError"):
        source.step(np.zeros((2, 2), np.float32))


WORKER_FAULTS = {
    "raise": "sub-environment [01]: its step raised ZeroDivisionError: no current",
    "os._exit": "sub-environment [01]: its process ended with exit code 3",
    "abort": "sub-environment [01]: its process was ended by SIGABRT",
    "hang": "sub-environment [01]: no answer within 2 s; its process was ended",
}


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "sentence"), WORKER_FAULTS.items(), ids=WORKER_FAULTS)
def test_a_worker_that_fails_dies_or_hangs_is_one_sentence(fault: str, sentence: str) -> None:
    source = GymSource(lambda: Broken(fault), n_envs=2, asynchronous=True, env_timeout=120.0)
    source._fleet._timeout = 2.0  # a first start may take long; a step does not
    try:
        for _ in range(2):
            source.step(np.zeros((2, 2), np.float32))
        with pytest.raises(EnvError, match=f"environment Broken, step 6: {sentence}"):
            source.step(np.zeros((2, 2), np.float32))
    finally:
        begun = time.monotonic()
        source.close()
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
@pytest.mark.parametrize("vector", [False, True], ids=["env", "vector"])
def test_a_reward_is_one_number_in_whatever_shape(shape: tuple[int, ...], vector: bool) -> None:
    class Odd(Shaped):
        def step(self, action: Any) -> Any:
            obs, _, terminated, truncated, info = super().step(action)
            return obs, np.full(shape, 2.5), np.array([terminated]), np.bool_(truncated), info

    class OddVector(SyncVectorEnv):
        def step(self, actions: Any) -> Any:
            obs, reward, *rest = super().step(actions)
            return obs, reward.reshape((1, *shape)) * 2.5, *rest

    source = GymSource(OddVector([Shaped]) if vector else Odd())
    step = source.step(IDLE)
    assert step.reward.tolist() == [2.5]
    assert step.reward.dtype == np.float32
    assert not step.terminated[0]


class Vandal(Shaped):
    """Writes into the action it is given, and hands out one buffer, over and over."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(3, np.float32)
        self.action = np.zeros(2, np.float32)

    def step(self, action: Any) -> Any:
        _, *rest = super().step(action)
        self.buffer += np.float32(np.sum(action))
        action[:] = 99.0
        return self.buffer, *rest

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.buffer[:] = 0
        return self.buffer, {}


@pytest.mark.parametrize("vector", [False, True], ids=["env", "vector"])
def test_an_environment_that_writes_into_what_it_shares_changes_nothing_of_ours(vector: bool) -> None:
    source = GymSource(SyncVectorEnv([Vandal], autoreset_mode="Disabled", copy=False) if vector else Vandal())
    action = np.array([[0.5, 0.25]], np.float32)
    seen = [source.obs, *(source.step(action).next_obs for _ in range(2))]
    assert action.tolist() == [[0.5, 0.25]]
    assert [obs[0, 0] for obs in seen] == [0.0, 0.75, 1.5]
    assert source.snapshot()[0]["history0"].tolist() == [[0.5, 0.25]] * 2


def test_evaluation_keeps_what_an_environment_writes_over() -> None:
    agent = fittedq.train("ddpg", Vandal(), steps=10, **TINY)
    rows = agent.trajectory(Vandal(), 5)
    assert rows.obs[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(rows.next_obs[:4, 0], rows.obs[1:5, 0])
    assert np.abs(rows.action).max() <= 1.0


def test_one_instance_handed_out_again_is_refused() -> None:
    only = Shaped()
    with pytest.raises(UserError, match=r"one and the same environment each time.*2 of them"):
        GymSource(lambda: only, n_envs=2)
    GymSource(lambda: only)
    wrapped = Shaped()
    with pytest.raises(UserError, match="eval_env: the callable returns the environment that is trained in"):
        fittedq.train("ddpg", lambda: gymnasium.wrappers.TimeLimit(wrapped, 9), steps=10, eval_every=5, **TINY)


class OldReset(Shaped):
    def reset(self) -> Any:  # type: ignore[override]
        return self._observe()


class OnlyObservation(Shaped):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed)[0]


class OldStep(Shaped):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (OldReset, r"its reset raised TypeError: .*'seed'; give it the signature reset\(self, \*, seed=None"),
        (OnlyObservation, "its reset returned one value of type ndarray, expected two"),
        (OldStep, "its step returned 4 values, expected five"),
        (lambda: gymnasium.wrappers.TimeLimit(OldStep(), 9), "return five values from step: observation, reward"),
    ],
    ids=["reset", "observation", "step", "wrapped-step"],
)
def test_environments_of_the_older_interface_say_what_to_change(env: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        GymSource(env()).step(IDLE)


def test_evaluation_in_a_broken_environment_says_where() -> None:
    agent = fittedq.train("ddpg", Shaped(), steps=10, **TINY)
    with pytest.raises(EnvError, match="evaluation in Broken, episode 0, step 2: its step raised ZeroDivisionError"):
        agent.evaluate(lambda: Broken("raise"), 1)

    class Dead(Shaped):
        def _observe(self) -> Any:
            return np.array([0.0, np.nan if self.time == 2 else 0.0, 0.0], np.float32)

    with pytest.raises(EnvError, match=r"evaluation in Dead, episode 0, step 1: observation\[1\] is nan"):
        agent.evaluate(Dead, 1)


def test_an_environment_that_raises_while_it_closes_takes_nothing_along() -> None:
    closed = []

    class Stuck(Shaped):
        def close(self) -> None:
            closed.append(self)
            raise ZeroDivisionError

    assert np.isfinite(fittedq.train("ddpg", Stuck, steps=2, n_envs=2, **TINY).evaluate(Stuck, 1)).all()
    assert len(set(closed)) == 3


# ---------------------------------------------------------------------- nothing is lost


@pytest.mark.parametrize("algorithm", ["ddpg", pytest.param("nfqca", marks=pytest.mark.slow)])
def test_a_run_is_saved_when_its_environment_fails_and_goes_on_when_it_works(algorithm: str, tmp_path: Path) -> None:
    more = {"hidden": (8,), "random_steps": 20}
    more |= {"batch_size": 8, "replay_size": 200} if algorithm == "ddpg" else {"steps_per_iteration": 20, "epochs": 1}
    with pytest.raises(EnvError, match=r"step 34: its step raised .* 33 steps before are saved in"):
        fittedq.train(algorithm, Broken("raise", at=34), steps=50, out=tmp_path / "run", **more)
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert saved.name == "step-0000000033"
    agent = fittedq.resume(tmp_path / "run", env=Broken())
    assert np.isfinite(agent.act(np.zeros(3))).all()
    assert (tmp_path / "run" / "last" / "manifest.json").is_file()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the user's own environment, module and wrapper in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FITTEDQ_NO_CACHE", "1")
    (tmp_path / "plant.py").write_text(
        "from pathlib import Path\n"
        "from typing import Any\n"
        "import gymnasium\n"
        "import numpy as np\n"
        "Path(__file__).with_name('imported').touch()\n"
        "class Tank(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)\n"
        "    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)\n"
        "    def __init__(self, gain: float = 1.0, fails_at: int = 0):\n"
        "        self.gain, self.fails_at, self.time, self.lived = gain, fails_at, 0, 0\n"
        "    def reset(self, *, seed: Any = None, options: Any = None) -> Any:\n"
        "        self.time = 0\n"
        "        return np.zeros(1, np.float32), {}\n"
        "    def step(self, action: Any) -> Any:\n"
        "        self.time += 1\n"
        "        self.lived += 1\n"
        "        if self.lived == self.fails_at:\n"
        "            raise RuntimeError('valve')\n"
        "        return np.full(1, self.time, np.float32), self.gain, False, self.time == 4, {}\n"
        "def doubled(env: gymnasium.Env) -> gymnasium.Env:\n"
        "    return gymnasium.wrappers.TransformReward(env, lambda reward: 2 * reward)\n"
    )
    (tmp_path / "needs.py").write_text("import a_module_that_is_not_installed\n")
    (tmp_path / "raises.py").write_text("raise RuntimeError('licence')\n")
    yield tmp_path
    sys.modules.pop("plant", None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("name", ["plant.py:Tank", "plant:Tank"])
def test_a_class_of_the_current_folder_is_an_environment_with_arguments_and_wrappers(name: str, folder: Path) -> None:
    env = NamedEnv(name, {"gain": 3.0}, ("plant.py:doubled",)).make()
    env.reset(seed=0)
    assert env.step(np.zeros(1, np.float32))[1] == 6.0
    assert make_flat(name).spaces.observation.size == 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere:Tank", "environment 'nowhere:Tank': the module 'nowhere' is neither installed nor in the current"),
        ("needs:Tank", "needs needs the module 'a_module_that_is_not_installed', which is not installed"),
        ("raises:Tank", "importing raises raised RuntimeError: licence"),
        ("plant:Tnk", "plant registers no 'Tnk' and has no class of that name; did you mean 'Tank'"),
        ("none.py:Tank", "the file .*none.py is not there"),
        ("Pendulum-v1000", "environment 'Pendulum-v1000' is unknown; did you mean 'Pendulum-v1'"),
        ("plant.py:np", "has no class of that name"),
        ("plant.py:Path", "returned PosixPath, expected a gymnasium.Env"),
    ],
)
def test_what_a_name_lacks_is_a_sentence(name: str, sentence: str, folder: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        make_env(name)


def test_arguments_and_wrappers_that_do_not_fit_are_a_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match=r"'Pendulum-v1' could not be made: .*weight"):
        NamedEnv("Pendulum-v1", {"weight": 3}).make()
    with pytest.raises(UserError, match=r"wrapper 'plant.py:double': plant.py has no 'double'; did you mean 'doubled'"):
        NamedEnv("Pendulum-v1", wrappers=("plant.py:double",)).make()
    with pytest.raises(UserError, match=r"expected 'module:Name' or 'file.py:Name'"):
        NamedEnv("Pendulum-v1", wrappers=("doubled",)).make()
    with pytest.raises(UserError, match="is compiled: a Gymnasium wrapper cannot go around it"):
        fittedq.train("ddpg", NamedEnv("jax/Pendulum-v1", wrappers=("plant.py:doubled",)), steps=9, **TINY)


def test_code_that_only_a_runs_file_names_is_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = ["plant.py:Tank", "--env-kwargs", "gain=2.0", "--wrapper", "plant.py:doubled"]
    run = ["--steps", "30", "--eval-every", "30", "--eval-episodes", "1", "--out", "run", *FLAGS]
    assert main(["train", "ddpg", *named, *run]) == 0
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["env"] == {"id": "plant.py:Tank", "kwargs": {"gain": 2.0}, "wrappers": ["plant.py:doubled"]}
    best = json.loads((folder / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert best["eval_mean"] == 16.0
    (folder / "imported").unlink()
    for name in [name for name in sys.modules if name.startswith("plant")]:
        del sys.modules[name]
    capsys.readouterr()
    for command in (["resume", "run", "--steps", "40"], ["eval", "run"], ["inspect", "run", "--health"]):
        assert main(command) == 2
        told = said(capsys)
        assert "names code to be run for its environment: plant.py:Tank, plant.py:doubled" in told
        assert "--trust-code plant.py:Tank --trust-code plant.py:doubled" in told
        assert main([*command, "--trust-code", "plant.py:Tank"]) == 2, "all of it has to be named"
        capsys.readouterr()
    with pytest.raises(UserError, match="names code to be run"):
        fittedq.load(folder / "run").evaluate(fittedq.load(folder / "run").env, 1)
    assert not (folder / "imported").exists(), "nothing was imported"

    trust = ["--trust-code", "plant.py:Tank", "--trust-code", "plant.py:doubled"]
    assert main(["eval", "run", "--episodes", "1", "--json", *trust]) == 0
    assert json.loads(capsys.readouterr().out)["mean"] == 16.0
    agent = fittedq.load(folder / "run", trust_code=["plant.py:Tank", "plant.py:doubled"])
    assert agent.env is not None and agent.evaluate(agent.env, 1) == 16.0
    assert main(["eval", "run", "--episodes", "1", "--json", "--env", "plant.py:Tank"]) == 0, "named by the user"
    assert json.loads(capsys.readouterr().out)["mean"] == 4.0
    assert main(["resume", "run", "--steps", "40", *trust]) == 0
    assert main(["eval", "run", "--wrapper", "plant.py:doubled"]) == 2
    assert "name it too" in said(capsys)


@pytest.mark.parametrize(
    ("env", "code"),
    [
        ("Pendulum-v1", ()),
        ({"id": "Pendulum-v1", "kwargs": {"g": 9.0}}, ()),
        ("os:system", ("os:system",)),
        ({"id": "GymV21Environment-v0", "kwargs": {"env_id": "evil:Id"}}, ("env_id=evil:Id",)),
        ({"id": "Pendulum-v1", "kwargs": {"a": [{"b": ["evil:Id"]}]}}, ("a=[{'b': ['evil:Id']}]",)),
        ({"id": "Pendulum-v1", "wrappers": ["evil:Wrapper"]}, ("evil:Wrapper",)),
    ],
)
def test_what_may_be_code_in_a_file_is_known(env: Any, code: tuple[str, ...]) -> None:
    named = NamedEnv.of(env, "run folder x")
    assert named is not None
    assert named.code == code
    assert named.trusted(code).named_by is None
    if code:
        with pytest.raises(UserError, match="names code to be run"):
            named.make()


@pytest.mark.parametrize("damaged", [3, ["a"], {}, {"id": 3}, {"id": "a", "kwargs": []}, {"id": "a", "wrappers": [1]}])
def test_a_damaged_name_is_refused(damaged: Any) -> None:
    with pytest.raises(UserError, match="the file is damaged"):
        NamedEnv.of(damaged, "run folder x")


def test_collecting_keeps_what_came_before_a_failure_and_traceback_shows_the_cause(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect = ["data", "collect", "plant.py:Tank", "--env-kwargs", "fails_at=150", "--steps", "300"]
    assert main([*collect, "--out", "data"]) == 2
    told = said(capsys)
    assert "environment Tank, step 150: its step raised RuntimeError: valve" in told
    assert "Traceback" not in told
    assert len(Dataset.open(folder / "data")) == 149
    assert main([*collect, "--out", "more", "--traceback"]) == 2
    assert "raise RuntimeError('valve')" in said(capsys)


@pytest.mark.parametrize(
    "text", ["ALE/Pong-v5", "my.mod:Env-v0", 'a<b>c:"d"|e?f*g\\h', "x" * 300, "..", "a\x00b ", "/"]
)
def test_a_run_folders_name_holds_nothing_that_a_file_system_forbids(text: str) -> None:
    name = folder_name(text)
    assert name
    assert len(name) <= 80
    assert not set(name) & set('<>:"/\\|?*\x00')
    assert name == name.strip(" .")
