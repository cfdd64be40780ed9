"""Learning rates that follow a schedule, and optimizers of the user's own: all methods honour them, files hold them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fittedq
from fittedq import DDPG, NFQCA, TD3, Box, Dataset, ExplicitFQI, Linear, UserError
from fittedq.algorithms import REGISTRY
from fittedq.cli.main import main
from fittedq.runs.folder import RunFolder
from fittedq.runs.resume import reopened
from fittedq.settings import as_json, from_json, in_words, setting_fields
from fittedq.template.fits import Descend
from fittedq.template.rates import scheduled
from fittedq.trainers.settings import GrowSettings, TrainSettings
from fittedq.trainers.state import initial_state
from fittedq.types import Transition
from methods import each, made

BOX = Box((-1.0,), (1.0,))
SMALL: dict[str, Any] = {"hidden": (4,), "batch_size": 8}
FITTED: dict[str, Any] = {"hidden": (4,), "n_critics": 1, "epochs": 1, "policy_epochs": 1, "minibatch": 20}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 2)).astype(np.float32), rng.uniform(-1, 1, (40, 1)).astype(np.float32)
    columns = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs, "terminated": np.zeros(40, bool)}
    path = tmp_path_factory.mktemp("rates") / "log"
    Dataset.from_arrays(**columns, action_low=-1, action_high=1).save(path)
    return path


def weights(agent: fittedq.Agent) -> np.ndarray:
    """Every number of its networks."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(agent.nets)])


def test_the_kth_step_of_a_schedule_is_the_optimizers_at_that_rate() -> None:
    gradient = jnp.asarray([1.0, -2.0])
    sgd = scheduled(optax.sgd, Linear(0.4, 0.2, updates=4))
    for k, rate in enumerate([0.4, 0.35, 0.3, 0.25, 0.2, 0.2]):
        step, _ = sgd.update(gradient, sgd.init(gradient), gradient, count=jnp.asarray(k + 1))  # type: ignore[call-arg]
        np.testing.assert_allclose(step, -rate * gradient, rtol=1e-6)
    assert Linear(0.4, 0.2)(np.asarray(10**6)) == 0.4, "outside a run, which has no end"
    # Adam's first step is −rate g / (|g| + ε), and it keeps the state that it has with a number.
    adam = scheduled(optax.adam, Linear(0.1, 0.0, updates=10))
    step, state = adam.update(gradient, adam.init(gradient), gradient, count=jnp.asarray(6))  # type: ignore[call-arg]
    np.testing.assert_allclose(step, [-0.05, 0.05], rtol=1e-5)
    assert jax.tree.structure(state) == jax.tree.structure(optax.adam(0.1).init(gradient))


def test_a_learner_in_its_kth_update_takes_the_kth_rate() -> None:
    """From one state, the step at rate_k is rate_k times the step at rate 1: gradient descent is linear in it."""
    batch = Transition.unpack(jax.random.normal(jax.random.PRNGKey(1), (8, Transition.width(2, 1))), 2, 1)

    def moved(rate: Any, k: int) -> np.ndarray:
        algorithm = DDPG(hidden=(4,), optimizer=optax.sgd, critic_learning_rate=rate)
        fqi, state = initial_state(algorithm, 2, BOX, 8, seed=0)
        object.__setattr__(state, "step", jnp.asarray(k, jnp.int32))
        after = jax.jit(fqi.learn)(state, batch)
        pairs = zip(jax.tree.leaves(after.nets.critic), jax.tree.leaves(state.nets.critic), strict=True)
        return np.concatenate([np.ravel(new - old) for new, old in pairs])

    whole = moved(1.0, 0)
    assert np.abs(whole).max() > 0.01
    for k, rate in ((0, 0.5), (3, 0.35)):
        np.testing.assert_allclose(moved(Linear(0.5, 0.0, updates=10), k), rate * whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", each("explicit_fqi", "td3", "sac", "iql"))
def test_every_method_honours_every_learning_rate_and_the_optimizer(name: str) -> None:
    cls: Any = REGISTRY[name]
    rates = [field.name for field in setting_fields(cls) if Linear in field.metadata["kinds"]]
    own = [name for name in rates if name not in cls.ignores]
    asked: list[str] = []

    def asking(name: str) -> Any:
        return lambda k: asked.append(name) or 1e-3

    algorithm = cls(hidden=(4,), optimizer=optax.sgd, **{setting: asking(setting) for setting in own})
    nets = made(algorithm, 2, BOX, jax.random.PRNGKey(0))
    for update in algorithm.template(BOX).updates:
        assert isinstance(update.fit, Descend)
        part = getattr(nets, update.component)
        state = update.fit.init(part)
        assert not any(
            "Adam" in type(leaf).__name__
            for leaf in jax.tree.leaves(state, is_leaf=lambda s: "Adam" in type(s).__name__)
        )
        optax.with_extra_args_support(update.fit.optimizer).update(part, state, part, count=jnp.asarray(1))
    assert set(asked) == set(own)
    updated = {update.component for update in algorithm.template(BOX).updates}
    assert set(rates) - set(own) == (set() if "policy" in updated else {"policy_learning_rate"})


@pytest.mark.parametrize(("name", "settings"), [("td3", SMALL), ("nfqca", FITTED)], ids=["td3", "nfqca"])
def test_a_schedule_that_stands_still_is_the_number_to_the_bit(name: str, settings: dict[str, Any], log: Path) -> None:
    number, still = (
        fittedq.fit(name, log, steps=4, critic_learning_rate=rate, policy_learning_rate=rate, **settings)
        for rate in (1e-3, Linear(1e-3, 1e-3))
    )
    np.testing.assert_array_equal(weights(still), weights(number))


@pytest.mark.filterwarnings("ignore:.* and the run takes about 4")
@pytest.mark.parametrize(("name", "settings"), [("td3", SMALL), ("nfqca", FITTED)], ids=["td3", "nfqca"])
def test_a_run_resumes_in_the_middle_of_its_schedule(
    name: str, settings: dict[str, Any], log: Path, tmp_path: Path
) -> None:
    rates = {"critic_learning_rate": Linear(1e-2, 0.0, updates=8), "policy_learning_rate": Linear(0.0, 1e-2, updates=8)}
    whole = fittedq.fit(name, log, steps=8, **rates, **settings)
    fittedq.fit(name, log, steps=4, out=tmp_path / "run", **rates, **settings)
    half = fittedq.load(tmp_path / "run" / "last")
    assert half.algorithm.critic_learning_rate == Linear(1e-2, 0.0, updates=8)  # type: ignore[attr-defined]
    assert not np.array_equal(weights(half), weights(whole))
    resumed = fittedq.resume(tmp_path / "run", steps=8)
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    # At its end the rate is 0: the critic stays, and the policy goes on.
    run = reopened(tmp_path / "run", steps=12)
    assert "critic_learning_rate stays at 0 from update 8 on" in " ".join(run.notes)
    run.close()
    later = fittedq.resume(tmp_path / "run", steps=12)
    np.testing.assert_array_equal(*(jax.tree.leaves(one.nets.critic)[0] for one in (later, resumed)))
    assert not np.array_equal(*(jax.tree.leaves(one.nets.policy)[0] for one in (later, resumed)))


@pytest.mark.slow
def test_a_schedule_without_a_length_takes_the_whole_run_and_keeps_it(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    fittedq.fit("td3", log, steps=4, out=out, critic_learning_rate=Linear(1e-3, 1e-4), **SMALL)
    saved = {"kind": "Linear", "first": 1e-3, "last": 1e-4, "updates": 4}
    assert RunFolder(out).config()["settings"]["critic_learning_rate"] == saved
    fittedq.resume(out, steps=6, set={"policy_learning_rate": Linear(1e-3, 0.0)})
    fittedq.resume(out, steps=8, set={"critic_learning_rate": 1e-5, "policy_learning_rate": "linear:1e-3:1e-4:8"})
    one, two = RunFolder(out).config()["history"]
    assert one["policy_learning_rate"] == [3e-4, saved | {"last": 0.0, "updates": 6}]
    assert two["critic_learning_rate"] == [saved, 1e-5]
    assert two["policy_learning_rate"] == [saved | {"last": 0.0, "updates": 6}, saved | {"updates": 8}]


def test_updates_in_a_run_are_counted_where_data_are_collected() -> None:
    assert TrainSettings(random_steps=100, updates_per_step=0.5).updates(300) == 100
    assert TrainSettings(random_steps=100).updates(50) == 0
    grow = GrowSettings(random_steps=100, steps_per_iteration=50)
    assert [grow.updates(steps) for steps in (99, 100, 149, 150, 300)] == [0, 1, 1, 2, 5]


def test_the_command_line_names_a_schedule_in_words(log: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["train", "td3", "--data", str(log), "--steps", "2", "--out", str(tmp_path / "run")]
    words += ["--set", "hidden=4,4", "--set", "batch_size=8"]
    assert main([*words, "--set", "critic-learning-rate=linear:3e-4:3e-5"]) == 0
    assert fittedq.load(tmp_path / "run" / "last").algorithm.critic_learning_rate == Linear(3e-4, 3e-5, 2)  # type: ignore[attr-defined]
    capsys.readouterr()
    for wrong, said in (
        ("linear:3e-4", "found 'linear:3e-4', expected linear:FIRST:LAST:UPDATES"),
        ("linear:fast:0", "expected linear:FIRST:LAST:UPDATES"),
        ("linear:-1:0", "expected linear:FIRST:LAST:UPDATES"),
        ("linear:1:0:0", "expected linear:FIRST:LAST:UPDATES"),
        ("linear:1:0:5:6", "expected linear:FIRST:LAST:UPDATES"),
        ("linaer:1:0", "did you mean 'linear'"),
        ("fast", "setting critic_learning_rate: found 'fast', expected a number, or a function"),
    ):
        assert main([*words, "--set", f"critic_learning_rate={wrong}"]) == 2
        assert said in capsys.readouterr().err


def test_an_object_in_words_is_read_again() -> None:
    for rate in (Linear(3e-4, 0.0), Linear(1e-5, 3e-4, updates=70)):
        assert TD3(critic_learning_rate=in_words(rate)).critic_learning_rate == rate  # type: ignore[arg-type]
    assert in_words(Linear(3e-4, 3e-5)) == "linear:0.0003:3e-05"


def test_a_maximizer_is_named_in_words_too() -> None:
    assert ExplicitFQI(maximizer="projectedascent:7:0.25").maximizer == fittedq.ProjectedAscent(7, 0.25)
    for wrong in ("grid:x", "grid:1:2:3:4:5:6:7:8", f"grid:{10**9}"):
        with pytest.raises(UserError, match=f"setting maximizer: found '{wrong}', expected grid:"):
            ExplicitFQI(maximizer=wrong)


def test_what_a_file_says_of_a_schedule_is_checked() -> None:
    ends = {"first": 1.0, "last": 0.0}
    read = from_json(TD3, {"critic_learning_rate": {"kind": "Linear", **ends}}, {}, "FILE")
    assert read == {"critic_learning_rate": Linear(1.0, 0.0)}
    for wrong in ({"first": 1.0}, ends | {"first": -1.0}, ends | {"power": 2}, ends | {"updates": 1.5}):
        with pytest.raises(UserError, match=r"FILE: setting critic_learning_rate: found .*; it is damaged"):
            from_json(TD3, {"critic_learning_rate": {"kind": "Linear", **wrong}}, {}, "FILE")


@pytest.mark.slow
def test_a_schedule_or_an_optimizer_of_the_users_is_code(log: Path, tmp_path: Path) -> None:
    code = {"critic_learning_rate": optax.cosine_decay_schedule(1e-2, 4), "optimizer": optax.adamw}
    whole = fittedq.fit("ddpg", log, steps=4, **code, **SMALL)
    fittedq.fit("ddpg", log, steps=2, out=tmp_path / "run", **code, **SMALL)
    with pytest.raises(UserError, match=r"its critic_learning_rate is code, which no file holds"):
        fittedq.resume(tmp_path / "run")
    half, given = (fittedq.load(tmp_path / "run" / "last", code=part) for part in (None, code))
    np.testing.assert_array_equal(weights(half), weights(given))  # to act, neither is needed
    assert given.algorithm.optimizer is optax.adamw  # type: ignore[attr-defined]
    assert half.__reduce__()
    resumed = fittedq.resume(tmp_path / "run", steps=4, code=code)
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    adam = fittedq.fit("ddpg", log, steps=4, critic_learning_rate=code["critic_learning_rate"], **SMALL)
    assert not np.array_equal(weights(adam), weights(whole))
    json.dumps(as_json(whole.algorithm))


@pytest.mark.unannotated
def test_what_is_no_schedule_and_no_optimizer_is_one_sentence(log: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"critic_learning_rate": lambda k: "fast"}, "it returned 'fast', expected a number for each update"),
        ({"optimizer": lambda rate: rate}, "setting optimizer: it made a float, expected a GradientTransformation"),
        ({"optimizer": "rprop"}, "setting optimizer: found 'rprop'"),
        ({"optimizer": optax.adam(1e-3)}, "setting optimizer: found .*, expected a word, or a function"),
    ]
    for given, said in wrong:
        with pytest.raises(UserError, match=said):
            fittedq.fit("ddpg", log, steps=1, **given, **SMALL)
    with pytest.raises(UserError, match=r"found Linear\(first=0.1, last=0.0, updates=None\) with optimizer = 'rprop'"):
        NFQCA(optimizer="rprop", policy_learning_rate=Linear(0.1, 0.0))


def test_only_a_rate_that_makes_steps_is_warned_of(log: Path) -> None:
    with pytest.raises(
        UserError, match=r"critic_learning_rate: found 9.0, which approximator = 'extra_trees' does not"
    ):
        fittedq.fit("explicit_fqi", log, steps=1, approximator="extra_trees", n_trees=1, critic_learning_rate=9.0)
    with pytest.warns(RuntimeWarning, match=r"critic_learning_rate is Linear\(first=9.0, .*\): the first update"):
        fittedq.fit("ddpg", log, steps=2, critic_learning_rate=Linear(9.0, 0.0), **SMALL)


def test_a_schedule_longer_than_the_run_is_told(log: Path) -> None:
    said = r"critic_learning_rate comes to 0 in 8 updates, and the run takes about 4: it ends at 0\.005\."
    with pytest.warns(RuntimeWarning, match=said):
        fittedq.fit("td3", log, steps=4, critic_learning_rate=Linear(1e-2, 0.0, updates=8), **SMALL)
