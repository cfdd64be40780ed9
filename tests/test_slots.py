"""The template is open: a method from slots, or a class of one's own, trains, saves and resumes."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fittedq
from fittedq import (
    DDPG,
    FQI,
    TD3,
    Agent,
    Bellman,
    Composed,
    Descend,
    ExplicitFQI,
    FirstCritic,
    Gaussian,
    Improve,
    MinOverCritics,
    PolicyAction,
    Polyak,
    Regress,
    Smoothed,
    Sync,
    Update,
    UserError,
    setting,
    template,
)
from fittedq.code import sketch
from fittedq.settings import as_json, from_json
from fittedq.slots import AbstractSlot
from fittedq.types import Transition
from pages import ROOT, blocks

TINY: dict[str, Any] = {"batch_size": 8, "random_steps": 10, "replay_size": 100}
OBS = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -2.0]], np.float32)


def composed(clip: float = 0.5, *, hidden: int = 4) -> Composed:
    """The TD3 of `docs/reference/python.md`."""
    fit = Descend(optax.adam(3e-4))
    return Composed(
        fqi=FQI(
            greedy=Smoothed(PolicyAction(), sigma=0.2, clip=clip),
            updates=(
                Update("critic", Regress(Bellman(0.99, MinOverCritics(subset=2))), fit),
                Update("policy", Improve(FirstCritic()), fit, every=2),
            ),
            sync=Sync(critic=Polyak(0.005, every=2), policy=Polyak(0.005, every=2)),
        ),
        networks=TD3(hidden=(hidden,)).networks,
        exploration=Gaussian(0.1),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cautious(TD3):
    """A method of the user's own, with a setting."""

    name: ClassVar[str] = "cautious"
    caution: float = setting(0.5, "share of the box that is used", above=0.0, high=1.0)


@pytest.fixture(scope="module")
def registered() -> Agent:
    return fittedq.train("td3", "Pendulum-v1", steps=30, hidden=(4,), **TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the composed method, 30 steps long."""
    path = tmp_path_factory.mktemp("composed") / "run"
    fittedq.train(composed(), "Pendulum-v1", steps=30, out=path, **TINY)
    return path


def test_a_hand_written_td3_is_td3_to_the_bit(folder: Path, registered: Agent) -> None:
    np.testing.assert_array_equal(fittedq.load(folder, code=composed()).act(OBS), registered.act(OBS))


def test_an_algorithm_is_named_made_or_a_class_and_settings_beside_it_come_first(registered: Agent) -> None:
    for algorithm in (TD3, TD3(gamma=0.5, hidden=(9,))):
        agent = fittedq.train(algorithm, "Pendulum-v1", steps=30, gamma=0.99, hidden=(4,), **TINY)
        assert agent.algorithm == registered.algorithm
        np.testing.assert_array_equal(agent.act(OBS), registered.act(OBS))


def test_a_composed_run_resumes_as_if_it_had_not_stopped(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    longer = fittedq.resume(copy, steps=40, code=composed())
    straight = fittedq.train(composed(), "Pendulum-v1", steps=40, **TINY)
    np.testing.assert_array_equal(longer.act(OBS), straight.act(OBS))


def test_files_ask_for_the_composition_again_and_know_another(folder: Path) -> None:
    for again in (fittedq.load, fittedq.resume):
        with pytest.raises(UserError, match=r"its algorithm is code, which no file holds: Composed\(fqi=.*code=METHOD"):
            again(folder)
        with pytest.raises(UserError, match=r"(?s)code: found algorithm .*clip=0.25.*, expected .*clip=0.5"):
            again(folder, code=composed(clip=0.25))
        with pytest.raises(UserError, match=r"code: found algorithm TD3.*expected Composed"):
            again(folder, code=TD3)
        with pytest.raises(UserError, match="code: found 3, expected an algorithm"):
            again(folder, code={"algorithm": 3})
        with pytest.raises(UserError, match="code: found 'features', which is none of its code"):
            again(folder, code={"algorithm": composed(), "features": 3})
    with pytest.raises(UserError, match=r"hidden=\(9\)"):
        fittedq.load(folder, code=composed(hidden=9))


def test_a_class_of_ones_own_keeps_its_settings_in_the_file(tmp_path: Path) -> None:
    agent = fittedq.train(Cautious, "Pendulum-v1", steps=12, caution=0.25, hidden=(4,), **TINY)
    agent.save(tmp_path / "agent")
    for code in (Cautious, Cautious(caution=0.25, hidden=(4,)), {"algorithm": Cautious}):
        again = fittedq.load(tmp_path / "agent", code=code)
        assert again.algorithm == agent.algorithm
        np.testing.assert_array_equal(again.act(OBS), agent.act(OBS))
    with pytest.raises(UserError, match="its algorithm is code, which no file holds: Cautious"):
        fittedq.load(tmp_path / "agent")
    with pytest.raises(UserError, match=r"code: found caution = 0\.5, expected 0\.25"):
        fittedq.load(tmp_path / "agent", code=Cautious(hidden=(4,)))
    with pytest.raises(UserError, match="agent: algorithm is code"):
        agent.__reduce__()


def test_a_registered_algorithm_needs_no_code_and_takes_no_other(registered: Agent, tmp_path: Path) -> None:
    registered.save(tmp_path / "agent")
    assert fittedq.load(tmp_path / "agent", code=TD3).algorithm == registered.algorithm
    with pytest.raises(UserError, match="found algorithm DDPG, expected TD3"):
        fittedq.load(tmp_path / "agent", code=DDPG)


@pytest.mark.unannotated
def test_what_is_no_method_is_one_sentence() -> None:
    slots: dict[str, Any] = {"fqi": composed().template(None), "networks": TD3().networks, "exploration": Gaussian(0.1)}  # type: ignore[arg-type]
    for name, words in (
        ("fqi", "fqi: found str, expected FQI"),
        ("networks", "networks: found str, expected a function of"),
        ("exploration", "exploration: found str, expected AbstractExploration"),
    ):
        with pytest.raises(UserError, match=words):
            Composed(**slots | {name: "td3"})
    critic_only = lambda *sizes: fittedq.Components(critic=TD3().networks(*sizes).critic)  # noqa: E731
    lacking = Composed(**slots | {"networks": critic_only})
    with pytest.raises(UserError, match="needs a policy, and there is none among the components"):
        fittedq.train(lacking, "Pendulum-v1", steps=10, **TINY)
    with pytest.raises(UserError, match="setting 'gamma' is unknown"):
        fittedq.train(composed(), "Pendulum-v1", steps=10, gamma=0.9, **TINY)


def test_a_sketch_tells_structures_apart_and_is_the_same_in_every_process() -> None:
    assert sketch(composed()) == sketch(composed())
    assert "0x" not in sketch(composed())
    others = [composed(clip=0.4), TD3(), TD3, jnp.sin, lambda x: x, np.zeros(3), np.zeros((3, 1)), optax.adam(1e-3)]
    texts = [sketch(other) for other in others]
    assert len(set(texts)) == len(texts)
    assert sketch({"a": (1, None)}) == "{a: (1, None)}"
    assert sketch(Transition(*[np.zeros(2, np.float32)] * 6)).startswith("Transition(obs=float32[2], action=float32[2]")


def test_a_composed_method_learns_from_a_dataset_too() -> None:
    agent = fittedq.fit(composed(), a_log(), steps=2, batch_size=8)
    assert np.abs(agent.act(OBS)).max() <= 1.0


def a_log() -> fittedq.Dataset:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 3)).astype(np.float32), rng.uniform(-1, 1, (40, 1)).astype(np.float32)
    rows = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs, "terminated": np.zeros(40, bool)}
    return fittedq.Dataset.from_arrays(**rows, action_low=-1, action_high=1)


QUICK: dict[str, Any] = {"hidden": (4,), "n_critics": 1, "epochs": 1, "minibatch": 40}


def test_a_maximizer_of_ours_is_data_and_one_of_the_users_is_code(tmp_path: Path) -> None:
    ascent = fittedq.ProjectedAscent(steps=3)
    agent = fittedq.fit("explicit_fqi", a_log(), steps=1, maximizer=ascent, **QUICK)
    agent.save(tmp_path / "ours")
    saved = as_json(agent.algorithm)["maximizer"]
    assert saved == {"kind": "ProjectedAscent", "steps": 3} | {
        name: getattr(ascent, name) for name in ("learning_rate", "power", "momentum", "square_decay", "tolerance")
    }
    again = fittedq.load(tmp_path / "ours")
    assert again.algorithm == agent.algorithm
    np.testing.assert_array_equal(again.act(OBS), agent.act(OBS))

    chunked = Agent(ExplicitFQI(maximizer=fittedq.Chunked(ascent, 20), **QUICK), 3, agent.action_set, agent.nets)
    chunked.save(tmp_path / "agent")
    with pytest.raises(UserError, match=r"its maximizer is code.*Chunked\(inner=ProjectedAscent\("):
        fittedq.load(tmp_path / "agent")
    again = fittedq.load(tmp_path / "agent", code={"maximizer": fittedq.Chunked(ascent, 20)})
    np.testing.assert_array_equal(again.act(OBS), agent.act(OBS))


@pytest.mark.parametrize(
    "saved",
    [
        {"kind": "os.system", "steps": 3},
        {"kind": "ProjectedAscent", "steps": "3"},
        {"kind": "ProjectedAscent", "steps": 10**9},
        {"kind": "ProjectedAscent", "tolerance": float("nan")},
        {"kind": "ProjectedAscent", "strides": 3},
        {"kind": ["ProjectedAscent"]},
        {},
    ],
    ids=str,
)
def test_what_a_file_says_of_a_maximizer_is_checked(saved: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"FILE: setting maximizer: found .*; it is damaged"):
        from_json(ExplicitFQI, {"maximizer": saved}, {}, "FILE")


def wave(x: Any) -> Any:
    return jnp.sin(2 * x)


@pytest.mark.parametrize("activation", [jnp.sin, wave], ids=["sin", "wave"])
def test_an_activation_is_a_function_too_on_the_host_as_on_the_device(activation: Any, tmp_path: Path) -> None:
    algorithm = TD3(hidden=(4,), activation=activation)
    nets = algorithm.networks(3, fittedq.Box((-1.0,), (1.0,)), jax.random.PRNGKey(0))
    agent = Agent(algorithm, 3, nets.policy.action_set, nets)
    on_device = np.asarray(nets.policy.act(jnp.asarray(OBS), jnp.zeros((2, 1))))
    np.testing.assert_allclose(agent.act(OBS), on_device, rtol=1e-5, atol=1e-6)
    agent.save(tmp_path / "agent")
    with pytest.raises(UserError, match=f"its activation is code, which no file holds: {sketch(activation)};"):
        fittedq.load(tmp_path / "agent")
    again = fittedq.load(tmp_path / "agent", code={"activation": activation})
    np.testing.assert_array_equal(again.act(OBS), agent.act(OBS))
    with pytest.raises(UserError, match=f"no sound linear bounds are known for the activation {sketch(activation)};"):
        agent.gap(OBS)


@pytest.mark.unannotated
def test_objects_of_the_wrong_kind_are_one_sentence() -> None:
    for key, value, words in (
        ("maximizer", 3, "setting maximizer: found 3, expected a word, or an AbstractMaximizer"),
        ("maximizer", fittedq.ProjectedAscent, "setting maximizer: found the class ProjectedAscent, expected a word"),
        ("activation", 3, "setting activation: found 3, expected a word, or a function"),
        ("approximator", lambda *sizes: 3, "setting approximator: it made a int, expected an AbstractCritic"),
    ):
        # An approximator of one's own reads none of the networks' settings.
        settings = {} if key == "approximator" else QUICK
        with pytest.raises(UserError, match=words):
            fittedq.fit("explicit_fqi", a_log(), steps=1, **settings | {key: value})


EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "arguments", "said"),
    [
        ("your_own_method.py", ("run", "40"), "resumed to 140 steps"),
        ("your_own_critic.py", ("400", "200"), "loaded with the critic given again: True"),
    ],
)
def test_the_examples_of_ones_own_run(example: str, arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    if example == "your_own_method.py":
        lines = done.stdout.splitlines()
        acts = {line.split("it acts ")[1] for line in lines if line.startswith(("trained", "loaded"))}
        assert len(acts) == 1, "loaded in a new process, the agent acts as it did"
    else:
        assert float(done.stdout.split("greedy action: ")[1].split()[0]) < 0.4  # the action's range is 4


def test_the_block_of_slots_on_the_page_of_python_runs_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = blocks(ROOT / "docs" / "reference" / "python.md", "python")[-1]
    assert "steps=10_000, " in block.text
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(block.code(), names)
    assert isinstance(names["agent"], Agent)
    assert (tmp_path / "runs" / "my-td3" / "last").is_dir()


def test_every_public_name_has_a_docstring_of_its_own() -> None:
    public = {name: getattr(fittedq, name) for name in fittedq.__all__}
    assert [name for name, value in public.items() if not (value.__doc__ or "").strip()] == []
    inherited = [
        name
        for name, value in public.items()
        if isinstance(value, type) and any(value.__doc__ == base.__doc__ for base in value.__mro__[1:])
    ]
    made = [name for name, value in public.items() if (value.__doc__ or "").startswith(f"{name}(")]
    assert (inherited, made) == ([], []), "a dataclass without a docstring gets its signature for one"


def test_every_slot_of_the_template_is_public() -> None:
    modules = [
        importlib.import_module(f"fittedq.template.{module.name}") for module in pkgutil.iter_modules(template.__path__)
    ]
    slots = {
        name
        for module in modules
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, AbstractSlot) and kind.__module__ == module.__name__
    }
    assert {name for name in slots if not name.startswith("_")} <= set(fittedq.__all__)
    assert {"Bellman", "Solved", "Squared"} <= slots
