"""A slot is checked where it is made: each mistake is one sentence that names the slot, the field and what it takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fittedq
from fittedq import (
    FQI,
    SAC,
    TD3,
    Bellman,
    Descend,
    FirstCritic,
    Improve,
    MinOverCritics,
    PolicyAction,
    Polyak,
    ProjectedAscent,
    Regress,
    Smoothed,
    Sync,
    Update,
    UserError,
)
from fittedq.settings import from_json
from methods import made

FIT = Descend(optax.adam(1e-3))
LOSS = Regress(Bellman(0.9, FirstCritic()))
UPDATE = Update("critic", LOSS, FIT)


pytestmark = pytest.mark.unannotated


def wrong(*given: Any, **named: Any) -> Any:
    """Arguments of any type, for a type checker."""
    return given, named


@pytest.mark.parametrize(
    ("slot", "given", "said"),
    [
        (Bellman, wrong(1.5, FirstCritic()), "Bellman: gamma: found 1.5, expected a number at least 0 and below 1."),
        (Bellman, wrong(-1.0, FirstCritic()), "Bellman: gamma: found -1.0, expected a number"),
        (Bellman, wrong(np.nan, FirstCritic()), "Bellman: gamma: found nan, expected a number"),
        (Bellman, wrong("0.9", FirstCritic()), "Bellman: gamma: found '0.9', expected a number"),
        (Bellman, wrong(True, FirstCritic()), "Bellman: gamma: found True, expected a number"),
        (Bellman, wrong(FirstCritic(), 0.98), "Bellman: gamma: found FirstCritic(), expected a number"),
        (Bellman, wrong(0.9, FirstCritic), "Bellman: combine: found the class FirstCritic, expected an Abstr"),
        (Polyak, wrong(2.0), "Polyak: tau: found 2.0, expected a number above 0 and at most 1."),
        (Polyak, wrong(0.1, every=0.5), "Polyak: every: found 0.5, expected a whole number at least 1."),
        (Smoothed, wrong(PolicyAction(), -1, 0.5), "Smoothed: sigma: found -1, expected a number at least 0."),
        (Smoothed, wrong(PolicyAction, 0.2, 0.5), "Smoothed: inner: found the class PolicyAction, expected"),
        (MinOverCritics, wrong(subset=0), "MinOverCritics: subset: found 0, expected a whole number at least 1 or"),
        (ProjectedAscent, wrong(steps=-5), "ProjectedAscent: steps: found -5, expected a whole number at least 0."),
        (ProjectedAscent, wrong(steps="a"), "ProjectedAscent: steps: found 'a', expected a whole number"),
        (Regress, wrong(FirstCritic()), "Regress: target: found FirstCritic(), expected an AbstractTarget."),
        (Descend, wrong(1e-3), "Descend: optimizer: found 0.001, expected a GradientTransformation, such as optax"),
        (Sync, wrong(critic=0.005), "Sync: critic: found 0.005, expected an AbstractFollow or None."),
        (Update, wrong("critics", LOSS, FIT), "Update: component: found 'critics'; did you mean 'critic'?"),
        (Update, wrong("critic", LOSS, optax.adam(1e-3)), "Update: fit: found GradientTransformation"),
        (Update, wrong("critic", LOSS, FIT, every=0), "Update: every: found 0, expected a whole number at least 1."),
        (FQI, wrong(UPDATE, Sync()), "FQI: updates: found Update(component='critic'"),
        (FQI, wrong((UPDATE,), Sync(), greedy=PolicyAction), "FQI: greedy: found the class PolicyAction, expected"),
        (fittedq.Gaussian, wrong(-0.1), "Gaussian: sigma: found -0.1, expected a number at least 0."),
        (fittedq.OrnsteinUhlenbeck, wrong("a"), "OrnsteinUhlenbeck: reversion: found 'a', expected a number."),
        (fittedq.PartlySolved, wrong(fittedq.Solved(), 2.0), "PartlySolved: share: found 2.0, expected a number"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)  # fmt: skip
def test_a_wrong_field_is_one_sentence(slot: Callable[..., Any], given: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        slot(*given[0], **given[1])


def test_whole_numbers_are_numbers_and_trees_are_taken_apart_unchecked() -> None:
    assert Bellman(0, MinOverCritics()).gamma == 0
    follow = jax.tree.map(lambda leaf: None, Sync(critic=Polyak(0.1)))
    assert isinstance(follow, Sync), "JAX puts modules together with leaves of any kind"


class _Scale(fittedq.AbstractCombine):
    """An own slot: its fields are checked as ours are."""

    scale: float
    offset: jax.Array

    def __call__(self, critic: Any, obs: Any, action: Any, key: Any) -> Any:
        return self.scale * critic(obs, action, key)[0] + self.offset


def test_own_slots_are_checked_too_and_arrays_pass() -> None:
    assert _Scale(2, jnp.zeros(())).scale == 2
    assert float(_Scale(jnp.ones(()), jnp.zeros(())).scale) == 1  # type: ignore[arg-type]
    with pytest.raises(UserError, match="_Scale: scale: found 'x', expected a number"):
        _Scale("x", jnp.zeros(()))  # type: ignore[arg-type]


class _Asking(PolicyAction):
    needs: ClassVar[frozenset[str]] = frozenset({"critics"})


def test_what_a_slot_needs_is_among_the_known_names() -> None:
    with pytest.raises(UserError, match="_Asking: needs: found 'critics'; did you mean 'critic'"):
        FQI(updates=(UPDATE,), sync=Sync(), greedy=_Asking())


def test_targets_take_no_more_critics_than_there_are() -> None:
    for method in (TD3, SAC):
        with pytest.raises(UserError, match="n_target_critics: found 5 with n_critics = 2, expected at most as many"):
            method(n_target_critics=5)
        assert method(n_critics=1).n_target_critics == 1
    nets = made(TD3(hidden=(4,)), 2, fittedq.Box((-1.0,), (1.0,)), jax.random.PRNGKey(0))
    several = Update("critic", Regress(Bellman(0.9, MinOverCritics(5))), FIT)
    with pytest.raises(UserError, match="MinOverCritics: subset: found 5, expected at most the 2"):
        FQI(updates=(several,), sync=Sync(), greedy=PolicyAction()).check(nets)


def test_a_number_in_place_of_an_array_is_one_sentence() -> None:
    climb = Update("policy", Improve(FirstCritic()), FIT)
    nets = made(TD3(hidden=(4,)), 2, fittedq.Box((-1.0,), (1.0,)), jax.random.PRNGKey(0))
    nets = dataclasses.replace(nets, log_temperature=0.0)
    with pytest.raises(UserError, match=r"log_temperature: found the number 0\.0, expected an array"):
        FQI(updates=(climb,), sync=Sync()).check(nets)


def test_a_file_cannot_ask_a_solver_for_what_its_class_refuses() -> None:
    with pytest.raises(UserError, match=r"FILE: setting maximizer: found .*points.*; it is damaged"):
        from_json(fittedq.ExplicitFQI, {"maximizer": {"kind": "Grid", "points": 1}}, {}, "FILE")
