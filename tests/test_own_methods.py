"""Methods of one's own: nothing of them is lost or ignored without a word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import fittedq
from fittedq import FQI, TD3, AbstractTarget, Bellman, FirstCritic, Regress, Update, UserError, setting
from fittedq.testing import conforms

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


def test_what_is_no_method_does_not_conform_in_a_sentence(request: pytest.FixtureRequest) -> None:
    if request.config.option.annotations:
        pytest.skip("annotations are checked")
    for found in ("td3", TD3):
        with pytest.raises(UserError, match="expected a method as an object"):
            conforms(found)  # type: ignore[arg-type]
