"""Methods of one's own: nothing of them is lost or ignored without a word."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fittedq
from fittedq import FQI, TD3, AbstractTarget, Bellman, FirstCritic, Regress, Update, UserError, setting
from fittedq.algorithms.base import check_saves_whole
from fittedq.runs.resume import reopened
from fittedq.settings import parse_assignments
from fittedq.testing import conforms
from fittedq.trainers.state import initial_state

BOX = fittedq.Box((-1.0,), (1.0,))
TINY: dict[str, Any] = {"hidden": (4,), "batch_size": 8, "random_steps": 10, "replay_size": 100}


@dataclass(frozen=True, kw_only=True)
class Forgetful(TD3):
    """Has a field that is no setting."""

    name: ClassVar[str] = "forgetful"
    k: float = 0.5


class Undecorated(TD3):
    """Another default, which no dataclass takes up."""

    gamma = 0.5


class Numbered(TD3):
    """A name that no file can hold as one."""

    name: ClassVar[Any] = 4


class Annotated(TD3):
    """A new setting, which no dataclass takes up."""

    caution: float = setting(0.5, "nothing")


class Renamed(TD3):
    """Nothing of it is lost."""

    name: ClassVar[str] = "renamed"


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (Forgetful, "Forgetful: its field 'k' is no setting, so a saved run would lose it; write k: … = setting"),
        (
            Undecorated,
            "Undecorated: gamma would be ignored, for the class is no dataclass",
        ),
        (Numbered, "Numbered: name: found 4, expected a word"),
        (Annotated, "Annotated: caution would be ignored"),
    ],
)
def test_what_a_file_would_lose_is_refused_where_the_method_is_made_or_named(cls: type[TD3], said: str) -> None:
    with pytest.raises(UserError, match=said):
        cls()
    with pytest.raises(UserError, match=said):
        fittedq.train(cls, "Pendulum-v1", steps=10, k=0.7, **TINY)


def test_a_class_that_changes_no_setting_needs_no_decorator() -> None:
    assert Renamed(gamma=0.5).gamma == 0.5


class Impure(AbstractTarget):
    """Draws outside JAX, once for each program."""

    inner: Bellman

    def __call__(self, nets: Any, batch: Any, greedy: Any, key: Any) -> Any:
        labelled = self.inner(nets, batch, greedy, key)
        return fittedq.Labelled(labelled.inputs, labelled.y + np.random.randn())

    def value_range(self, nets: Any, reward: tuple[float, float]) -> tuple[float, float]:
        return self.inner.value_range(nets, reward)


def of(target: AbstractTarget) -> fittedq.Composed:
    """TD3 with another target."""
    fqi = TD3(hidden=(4,)).template(BOX)
    critic = Update("critic", Regress(target), fqi.updates[0].fit)
    return fittedq.Composed(
        fqi=FQI(updates=(critic, *fqi.updates[1:]), sync=fqi.sync, greedy=fqi.greedy),
        networks=TD3(hidden=(4,)).networks,
        exploration=fittedq.Gaussian(0.1),
    )


def test_a_target_that_draws_outside_jax_does_not_conform() -> None:
    with pytest.raises(AssertionError, match="learn is another program each time it is compiled"):
        conforms(of(Impure(Bellman(0.9, FirstCritic()))))


@pytest.mark.unannotated
def test_what_is_no_method_does_not_conform_in_a_sentence() -> None:
    for found in ("td3", TD3):
        with pytest.raises(UserError, match="expected a method as an object"):
            conforms(found)  # type: ignore[arg-type]


class Returning(AbstractTarget):
    """Returns what it was told to make of the right labels."""

    inner: AbstractTarget
    make: Any

    def __call__(self, nets: Any, batch: Any, greedy: Any, key: Any) -> Any:
        return self.make(self.inner(nets, batch, greedy, key), greedy)

    def value_range(self, nets: Any, reward: tuple[float, float]) -> tuple[float, float]:
        return self.inner.value_range(nets, reward)


def column(labelled: Any, greedy: Any) -> Any:
    return fittedq.Labelled(labelled.inputs, labelled.y[:, None])


def branching(labelled: Any, greedy: Any) -> Any:
    return labelled if labelled.y[0] > 0 else column(labelled, greedy)


def begun(method: Any) -> None:
    initial_state(method, 3, BOX, 5, seed=0)


def with_update(index: int, update: Any, greedy: Any = None) -> fittedq.Composed:
    """TD3 with one update, or its greedy step, exchanged."""
    fqi = TD3(hidden=(4,)).template(BOX)
    updates = tuple(update if place == index else one for place, one in enumerate(fqi.updates))
    return fittedq.Composed(
        fqi=FQI(updates=updates, sync=fqi.sync, greedy=greedy or fqi.greedy),
        networks=TD3(hidden=(4,)).networks,
        exploration=fittedq.Gaussian(0.1),
    )


class OneNumber(fittedq.AbstractRegression[Any, Any]):
    """A loss without metrics."""

    target: AbstractTarget

    def label(self, nets: Any, batch: Any, greedy: Any, key: Any) -> Any:
        return self.target(nets, batch, greedy, key)

    def __call__(self, component: Any, nets: Any, data: Any, key: Any) -> Any:
        return jnp.mean(component(*data.inputs, key))


class BareAction(fittedq.AbstractGreedy):
    """Gives actions where a Greedy is expected."""

    def __call__(self, nets: Any, obs: Any, key: Any) -> Any:
        return nets.policy.sample(obs, key)[0]


BELLMAN = Bellman(0.9, FirstCritic())
DESCEND = TD3().template(BOX).updates[0].fit


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (of(Returning(BELLMAN, column)), r"Returning: it returned y of shape \[5, 1\], expected \[5\], a number for"),
        (of(Returning(BELLMAN, lambda labelled, _: (1, 2))), r"Returning: it returned a tuple, expected Labelled\("),
        (of(Returning(BELLMAN, branching)), r"test_own_methods.py:\d+ in branching: it needs the value of an array"),
        (of(Returning(BELLMAN, lambda labelled, _: labelled + 1)), r"test_own_methods.py:\d+ in <lambda>: unsupported"),
        (with_update(0, Update("critic", OneNumber(BELLMAN), DESCEND)), r"OneNumber: it returned one value, expected"),
        (with_update(9, None, BareAction()), r"BareAction: it returned a \w+, expected Greedy\("),
        (
            with_update(0, Update("critic", fittedq.Improve(FirstCritic()), DESCEND)),
            "Improve: found QNetwork, expected",
        ),
        (with_update(1, Update("policy", Regress(BELLMAN), DESCEND)), "Regress: found DeterministicPolicy, expected"),
    ],
    ids=range(8),
)
@pytest.mark.unannotated
def test_what_own_slots_return_is_checked_before_training(method: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        begun(method)


class Constant(fittedq.AbstractValue):
    """v = 0."""

    def __call__(self, obs: Any, key: Any = None) -> Any:
        return 0 * obs[:, 0]


def test_a_slot_that_reads_what_it_does_not_name_is_one_sentence() -> None:
    def reads(labelled: Any, greedy: Any) -> Any:
        return greedy.action

    def networks(*sizes: Any) -> fittedq.Components:
        return dataclasses.replace(TD3(hidden=(4,)).networks(*sizes), value=Constant())

    blind = Update("critic", Regress(Returning(fittedq.BellmanFromValue(0.9), reads)), DESCEND)
    fqi = FQI(updates=(blind,), sync=fittedq.Sync())
    with pytest.raises(UserError, match=r"in reads: it reads action of what the template does not give"):
        begun(fittedq.Composed(fqi=fqi, networks=networks, exploration=fittedq.Gaussian(0.1)))


def late(update: Any) -> float:
    return 1e-3 if update < 300 else 1e-4


@pytest.mark.unannotated
def test_functions_of_other_arguments_are_one_sentence() -> None:
    wrong: list[tuple[Any, str]] = [
        (lambda: TD3(activation=lambda: 1), r"setting activation: found .*lambda.*, expected a function of \(x\)"),
        (
            lambda: TD3(critic_learning_rate=lambda: 1),
            r"setting critic_learning_rate: found .*, expected a function of",
        ),
        (lambda: TD3(optimizer=optax.adamw(1e-3)), r"setting optimizer: found Gradient.*such as optax.adamw itself"),
        (
            lambda: fittedq.ExplicitFQI(approximator=fittedq.QNetwork),
            r"found QNetwork, expected a function of \(obs",
        ),
    ]
    for make, said in wrong:
        with pytest.raises(UserError, match=said):
            make()
    with pytest.raises(UserError, match=r"test_own_methods.py:\d+ in late: it needs the value of an array"):
        begun(TD3(hidden=(4,), critic_learning_rate=late))
    with pytest.raises(UserError, match="it needs the value of an array"):
        begun(TD3(hidden=(4,), activation=np.sin))


def test_the_page_on_own_methods_runs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "your_own_method.md").read_text()
    slots, test, cls, loss = (block.split("```")[0] for block in page.split("```python\n")[1:])
    names: dict[str, Any] = {"__name__": __name__}
    exec(slots.replace("(64, 64)", "(4,)"), names)
    exec(test, names)
    exec(cls, names)
    check_saves_whole(names["Cautious"])
    assert "CautiousBellman(gamma=0.99, k=0.7)" in names["Cautious"](k=0.7).describe()["updates"]
    exec(loss, names)
    check_saves_whole(names["AgreeingTD3"])
    assert "Agreeing(k=0.7)" in names["AgreeingTD3"](k=0.7).describe()["updates"]


def test_a_schedule_in_slots_has_its_length_or_is_refused() -> None:
    fqi = TD3(hidden=(4,)).template(BOX)
    with pytest.raises(UserError, match=r"scheduled: found Linear.*expected one with its length; give updates="):
        fittedq.scheduled(optax.sgd, fittedq.Linear(1e-3, 0.0))
    silent = fittedq.Descend(optax.adam(fittedq.Linear(1e-3, 0.0)))
    with pytest.raises(UserError, match=r"has no length inside an optimizer, and would stay at 0\.001; give updates="):
        begun(with_update(0, Update("critic", fqi.updates[0].loss, silent)))
    fit = fittedq.Descend(fittedq.scheduled(optax.adam, fittedq.Linear(1e-3, 0.0, updates=4)))
    begun(with_update(0, Update("critic", fqi.updates[0].loss, fit)))


def test_a_negative_learning_rate_is_refused() -> None:
    with pytest.raises(UserError, match=r"it returned -0\.001, expected a number of at least 0"):
        begun(TD3(hidden=(4,), critic_learning_rate=lambda update: -1e-3))


def test_numbers_as_python_writes_them_are_numbers() -> None:
    texts = (".3", "1.", "+2", "1e-3", "-.5e-2", "1.2.3", "e5")
    values = parse_assignments(f"a{place}={text}" for place, text in enumerate(texts)).values()
    assert list(values) == [0.3, 1.0, 2.0, 1e-3, -0.005, "1.2.3", "e5"]


def test_a_bare_schedule_names_its_form_and_a_wrong_number_is_told() -> None:
    for words, said in (
        ("linear", r"found 'linear', expected linear:FIRST:LAST:UPDATES \(the last may be left out\)"),
        ("linear:1e-3:-1", r"numbers all: setting last: found -1.*, expected a number at least 0"),
    ):
        with pytest.raises(UserError, match=said):
            TD3(critic_learning_rate=words)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_changed_schedule_says_where_it_goes_on_and_may_replace_code(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 2)).astype(np.float32), rng.uniform(-1, 1, (40, 1)).astype(np.float32)
    columns = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs, "terminated": np.zeros(40, bool)}
    fittedq.Dataset.from_arrays(**columns, action_low=-1, action_high=1).save(tmp_path / "log")
    cosine, out = optax.cosine_decay_schedule(1e-2, 4), tmp_path / "run"
    small = {"hidden": (4,), "batch_size": 8, "checkpoint_every": 1}
    fittedq.fit("ddpg", tmp_path / "log", steps=2, out=out, critic_learning_rate=cosine, **small)
    run = reopened(out, steps=4, changes={"critic_learning_rate": fittedq.Linear(1e-3, 0.0)})
    assert "critic_learning_rate goes on at 0.0005: a schedule counts the updates of" in " ".join(run.notes)
    run.close()
    fittedq.resume(out, steps=4, set={"critic_learning_rate": fittedq.Linear(1e-3, 0.0)})
    fittedq.resume(out, steps=5, set={"critic_learning_rate": 1e-5})


@pytest.mark.unannotated
def test_networks_of_other_arguments_are_refused() -> None:
    with pytest.raises(UserError, match=r"networks: found .*lambda.*, expected a function of \(obs_size, act"):
        fittedq.Composed(
            fqi=TD3().template(BOX),
            networks=lambda obs_size, action_set: None,  # type: ignore[arg-type, misc]
            exploration=fittedq.Gaussian(0.1),
        )


def test_a_method_without_a_policy_collects_nothing() -> None:
    fqi = TD3(hidden=(4,)).template(BOX)
    lone = FQI(updates=(fqi.updates[0],), sync=fittedq.Sync(critic=fqi.sync.critic), greedy=fittedq.Solved())
    method = fittedq.Composed(
        fqi=lone,
        networks=lambda *sizes: fittedq.Components(critic=TD3(hidden=(4,)).networks(*sizes).critic),
        exploration=fittedq.Gaussian(0.1),
    )
    with pytest.raises(UserError, match="there is no policy among its components, and one acts in the environment"):
        fittedq.train(method, "Pendulum-v1", steps=20, batch_size=4, random_steps=10, replay_size=100)


def logged() -> fittedq.Dataset:
    """Forty rows of no plant."""
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(40, 3)).astype(np.float32), rng.uniform(-1, 1, (40, 1)).astype(np.float32)
    columns = {"obs": obs, "action": action, "reward": obs[:, 0], "next_obs": obs, "terminated": np.zeros(40, bool)}
    return fittedq.Dataset.from_arrays(**columns, action_low=-1, action_high=1)


def test_a_method_that_is_fitted_for_a_slots_sake_says_so() -> None:
    fqi = TD3(hidden=(4,)).template(BOX)
    loss = Regress(fittedq.Clipped(BELLMAN))
    updates = (Update("critic", loss, fqi.updates[0].fit), fqi.updates[1])
    method = fittedq.Composed(
        fqi=FQI(updates=updates, sync=fittedq.Sync(critic=fittedq.Copy()), greedy=fqi.greedy),
        networks=TD3(hidden=(4,)).networks,
        exploration=fittedq.Gaussian(0.1),
    )
    why = "composed fits all of its data in each iteration, for Clipped needs a whole dataset; leave it out"
    with pytest.raises(UserError, match=f"setting 'batch_size' is unknown here: {why}"):
        fittedq.train(method, "Pendulum-v1", steps=10, batch_size=8)
    with pytest.raises(UserError, match="'tolerance' is unknown here: td3 learns from batches"):
        fittedq.train("td3", "Pendulum-v1", steps=10, tolerance=0.1)
    with pytest.raises(UserError, match="'n_envs' is unknown here: td3 learns from data that are given, and collects"):
        fittedq.fit("td3", logged(), steps=10, n_envs=2)
    with pytest.raises(UserError, match="setting 'btch_size' is unknown; did you mean 'batch_size'"):
        fittedq.train("td3", "Pendulum-v1", steps=10, btch_size=8)


def test_networks_that_are_no_function_of_their_key_are_refused() -> None:
    widths = iter(range(3, 99))

    def networks(*sizes: Any) -> fittedq.Components:
        return TD3(hidden=(next(widths),)).networks(*sizes)

    fqi = TD3(hidden=(4,)).template(BOX)
    method = fittedq.Composed(fqi=fqi, networks=networks, exploration=fittedq.Gaussian(0.1))
    with pytest.raises(UserError, match="composed: its networks are others each time they are made"):
        fittedq.fit(method, logged(), steps=1, batch_size=8)

    def spoilt(*sizes: Any) -> fittedq.Components:
        return jax.tree.map(lambda leaf: leaf * jnp.nan, TD3(hidden=(4,)).networks(*sizes))

    method = fittedq.Composed(fqi=fqi, networks=spoilt, exploration=fittedq.Gaussian(0.1))
    with pytest.raises(UserError, match=r"composed: networks/critic/.* is not a number where it begins"):
        fittedq.fit(method, logged(), steps=1, batch_size=8)


def test_a_long_sketch_is_folded_and_two_are_told_apart_by_their_first_difference(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    method, other = (of(Bellman(gamma, FirstCritic())) for gamma in (0.9, 0.5))
    whole = r"Composed\(fqi=FQI\(…\), networks=TD3\(…\).networks, exploration=Gaussian\(…\)\)"
    fittedq.fit(method, logged(), steps=1, batch_size=8, out=tmp_path / "run")
    with pytest.raises(UserError, match=f"which no file holds: {whole}; give it again, --code FILE.py:NAME, or in"):
        fittedq.load(tmp_path / "run")
    with pytest.raises(UserError, match=r"found algorithm …gamma=0.5…, expected …gamma=0.9…, as"):
        fittedq.load(tmp_path / "run", code=other)
    if not pytestconfig.option.annotations:  # which would stop the call
        with pytest.raises(UserError, match=rf"code: found \({whole}\), expected an algorithm"):
            fittedq.load(tmp_path / "run", code=[method])  # type: ignore[arg-type]
