"""What an algorithm is: settings, the networks it starts from, its instance of the template, and how it explores."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.approx.host import host_view
from fittedq.approx.networks import ACTIVATIONS, Activation, Mlp, QNetwork
from fittedq.code import told
from fittedq.errors import UserError
from fittedq.ranges import LOG, NEAR_ONE, Among, Span
from fittedq.settings import check_settings, code_fields, setting, setting_fields, settle
from fittedq.template.fits import Budget, Descend
from fittedq.template.fqi import FQI
from fittedq.template.greedy import Solved, SolvedPolicy
from fittedq.template.rates import Adam, Linear, Optimizer, Rate, at_rate, over_a_run
from fittedq.template.targets import AbstractCombine, FirstCritic, MeanOverCritics, MinOverCritics
from fittedq.types import AbstractCritic, Components, HostPolicy, Transition, needed

POLICY_CRITICS: dict[str, AbstractCombine] = {
    "min": MinOverCritics(),
    "first": FirstCritic(),
    "mean": MeanOverCritics(),
}


# Rprop's own largest step, 50, drives a squashed policy into saturation, where no gradient brings it back.
OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(),
    "adamw": partial(
        optax.adamw, weight_decay=1e-2, mask=lambda params: jax.tree.map(lambda leaf: np.ndim(leaf) > 0, params)
    ),
    "rprop": partial(optax.rprop, max_step_size=0.1),
}
"""`adamw` takes the share 1e-2 · rate off every array at each step, and nothing off a number such as log β."""

SHARED: dict[str, dict[str, Any]] = {
    "alpha": {
        "about": "weight α of q beside the distance to the logged actions",
        "low": 0.0,
        "search": Span(0.5, 10.0, LOG),
    },
    "gamma": {"about": "discount γ", "low": 0.0, "below": 1.0, "search": Span(0.9, 0.998, NEAR_ONE)},
    "hidden": {
        "about": "widths of the hidden layers",
        "low": 1,
        "search": Among(((64, 64), (128, 128), (256, 256), (512, 512))),
    },
    "policy_hidden": {"about": "widths of the policy's hidden layers; none means half the critics'", "low": 1},
    "n_critics": {"about": "size of the critic ensemble", "low": 1},
    "n_target_critics": {"about": "critics in the target's minimum, drawn anew for each batch", "low": 1},
    "policy_critic": {"about": "critic that the policy climbs", "choices": POLICY_CRITICS},
    "policy_delay": {"about": "critic updates per policy update, d", "low": 1, "high": 2**31 - 1, "search": Span(1, 4)},
    "initial_temperature": {"about": "β at the start, where it is tuned", "above": 0.0},
    "target_entropy": {"about": "H̄ in nats; none means −m nats in the unit box"},
    "half_entropy": {"about": "H̄ in nats; none means −m/2 nats in the unit box"},
    "bins": {"about": "bins of the return's distribution", "low": 2},
    "value_low": {"about": "the lowest bin, in scaled rewards"},
    "value_high": {"about": "the highest bin, in scaled rewards"},
    "optimizer": {
        "about": "how gradients become steps",
        "choices": ("adam", "adamw"),
        "takes": Callable,
        "arguments": ("rate",),
        "such": "optax.adamw itself",
        "kinds": (Adam,),
        "to_act": False,
    },
    "tau": {"about": "Polyak rate τ of the frozen copies", "above": 0.0, "high": 1.0, "search": Span(0.001, 0.05, LOG)},
    "activation": {
        "about": "activation of the hidden layers",
        "choices": ACTIVATIONS,
        "takes": Callable,
        "arguments": ("x",),
    },
    "smoothing_sigma": {
        "about": "target smoothing σ, in half-widths of the box",
        "low": 0.0,
        "search": Span(0.05, 0.5),
    },
    "smoothing_clip": {"about": "clip c of the smoothing noise, in half-widths", "low": 0.0},
    "noise_sigma": {"about": "exploration σ, in half-widths of the box", "low": 0.0, "search": Span(0.05, 0.5, LOG)},
}
"""The meaning and the range of settings that several methods have."""


def shared(name: str, default: object) -> Any:
    """One of the shared settings, with a method's own default."""
    return setting(default, **SHARED[name])


def learning_rate(default: Rate, whose: str) -> Any:
    """A setting that is a learning rate: a number, or a schedule over the run."""
    about = f"learning rate of {whose}, or linear:FIRST:LAST over the run"
    return setting(
        default,
        about,
        above=0.0,
        takes=Callable,
        arguments=("update",),
        kinds=(Linear,),
        to_act=False,
        search=Span(1e-5, 3e-3, LOG),
    )


def target_entropy(asked: float | None, action_set: AbstractActionSet, per_action: float = -1.0) -> float:
    """H̄: what was asked for, or `per_action` · m nats over [−1, 1]^m, moved to the box's own units so that the policy
    does not depend on them."""
    if asked is not None:
        return asked
    return per_action * action_set.size + float(np.sum(np.log(action_set.half_width)))


Rules = tuple[Callable[[Any], None], ...]
"""Functions of an algorithm."""


def check_saves_whole(cls: type[AbstractAlgorithm]) -> None:
    """A UserError where a class has what no file would hold: a field that is no setting, or one that is ignored.

    A module, such as `Composed`, is code as a whole, and its sketch has every field.
    """
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        raise UserError(f"{cls.__name__}: name: found {name!r}, expected a word, by which its files call it.")
    if issubclass(cls, eqx.Module):
        return
    settings = {field.name for field in (*setting_fields(cls), *code_fields(cls))}
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.name not in settings:
            raise UserError(
                f"{cls.__name__}: its field {field.name!r} is no setting, so a saved run would lose it; write "
                f'{field.name}: … = setting(default, "what it means").'
            )
    for base in (base for base in cls.__mro__ if "__dataclass_fields__" not in vars(base)):
        hints = vars(base).get("__annotations__", {}) if base is cls else {}
        added = {name for name, hint in hints.items() if "ClassVar" not in str(hint)}
        ignored = sorted(settings.intersection(vars(base)) | added)
        if ignored:
            raise UserError(
                f"{base.__name__}: {', '.join(ignored)} would be ignored, for the class is no dataclass of its own; "
                "write @dataclass(frozen=True, kw_only=True) above it."
            )


def refuse_unread(method: GradientAlgorithm, names: Set[str], reader: str) -> None:
    """A UserError for the first of these settings that is otherwise than by default, which `reader` does not read."""
    for field in (field for field in setting_fields(type(method)) if field.name in names):
        value = getattr(method, field.name)
        if value != field.default and not over_a_run(value, field.default):
            raise UserError(f"setting {field.name}: found {told(value)}, which {reader} does not read; leave it out.")


def _reads_all(method: GradientAlgorithm) -> None:
    refuse_unread(method, method.ignores, method.name)


def refuse_tuning(method: GradientAlgorithm, temperature: float | None) -> None:
    """A UserError for what tunes a temperature beside one that is fixed."""
    if temperature is not None:
        tuning = {"initial_temperature", "temperature_learning_rate", "target_entropy"}
        refuse_unread(method, tuning, f"temperature = {temperature:g}")


def _saves_whole(method: GradientAlgorithm) -> None:
    check_saves_whole(type(method))


def _targets_have_their_critics(method: GradientAlgorithm) -> None:
    asked = getattr(method, "n_target_critics", None)
    if asked is None or asked <= method.n_critics:
        return
    if asked != getattr(type(method), "n_target_critics", None):
        raise UserError(
            f"setting n_target_critics: found {asked} with n_critics = {method.n_critics}, expected at most as many; "
            "raise n_critics too."
        )
    settle(method, "n_target_critics", method.n_critics)


class AbstractAlgorithm(abc.ABC):
    """What training asks of a method: first networks, an instance of the template, exploration."""

    name: ClassVar[str] = "own"
    title: ClassVar[str] = "A method of the user's own"
    online: ClassVar[bool] = True
    """Whether it learns a policy that can collect data."""
    fitted: bool = False
    """Whether each step of its run fits all of the data anew, instead of a batch."""
    fitted_for: tuple[str, ...] = ()
    """The slots for whose sake it is `fitted`, where nobody said so."""
    buffer: ClassVar[str] = "FIFO replay"
    """Where transitions are kept while it collects them."""

    ignores: ClassVar[frozenset[str]] = frozenset()
    """Settings of its kind that it does not read."""
    training: ClassVar[Mapping[str, Any]] = {}
    """Settings of training that it is published with, where they are not the usual ones."""

    @property
    @abc.abstractmethod
    def discount(self) -> float:
        """γ."""

    @abc.abstractmethod
    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        """The first components."""

    @abc.abstractmethod
    def template(self, action_set: AbstractActionSet) -> FQI:
        """Greedy step, updates in order, sync rule."""

    @abc.abstractmethod
    def exploration(self) -> AbstractExploration:
        """What perturbs the policy while data is collected."""

    def describe(self) -> dict[str, str]:
        """The design's table: buffer, greedy, updates, sync, over actions in [−1, 1]."""
        buffer = self.buffer if self.online else "fixed dataset"
        return {"buffer": buffer, **self.template(Box((-1.0,), (1.0,))).describe()}

    def controller(self, nets: Components) -> HostPolicy:
        """What acts, on the host: `act(obs [b,s], normal [b,m])` gives actions, the mode where `normal` is 0.

        Its policy, or, where it learns none, the solver of its greedy step.
        """
        if nets.policy is not None:
            return host_view(nets.policy)
        greedy = self.template(needed(nets.critic).action_set).greedy
        if not isinstance(greedy, Solved):
            raise UserError(f"{self.name}: it has neither a policy nor a greedy step that solves; give it one of them.")
        return SolvedPolicy(greedy, nets)

    @property
    def measure_every(self) -> int:
        """Steps of a run between calls of `measure`; 0: never."""
        return 0

    def measure(
        self, nets: Components, rows: Transition, stride: int, key: PRNGKeyArray
    ) -> tuple[Components, dict[str, float]]:
        """(the components, figures): what a method finds out from consecutive transitions, and may set itself by.

        `rows` are the newest, in order, on the host; those of `stride` environments take turns.
        """
        del rows, stride, key
        return nets, {}

    @abc.abstractmethod
    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, tuple[int, ...]]]:
        """(members, widths from input to output) of its networks: what `memory.network_bytes` counts."""


@dataclass(frozen=True, kw_only=True)
class GradientAlgorithm(AbstractAlgorithm, abc.ABC):
    """The settings of methods whose networks take gradient steps."""

    rules: ClassVar[Rules] = (_saves_whole, check_settings, _reads_all, _targets_have_their_critics)
    """What completes the settings or refuses them, in order."""

    gamma: float = shared("gamma", 0.99)
    activation: Activation = shared("activation", "relu")
    n_critics: int = shared("n_critics", 1)
    policy_learning_rate: Rate = learning_rate(3e-4, "the policy")
    critic_learning_rate: Rate = learning_rate(3e-4, "the critics (and the value network)")
    optimizer: str | Optimizer = shared("optimizer", "adam")
    """Also `Adam(b1)`, and in Python a function of the learning rate, such as `optax.adamw`."""

    def __post_init__(self) -> None:
        for rule in self.rules:
            rule(self)

    @property
    def discount(self) -> float:
        return self.gamma

    def descend(self, rate: Rate, budget: Budget = Budget()) -> Descend:
        """How a network is fitted, at one of these learning rates."""
        return Descend(self.optimizer_at(rate), budget)

    def optimizer_at(self, rate: Rate) -> optax.GradientTransformation:
        """The optimizer at one of these learning rates."""
        return at_rate(OPTIMIZERS[self.optimizer] if isinstance(self.optimizer, str) else self.optimizer, rate)


@dataclass(frozen=True, kw_only=True)
class NetworkAlgorithm(GradientAlgorithm, abc.ABC):
    """The settings of methods on one kind of network, the perceptron. Subclasses are final, and each is one page."""

    hidden: tuple[int, ...] = shared("hidden", (256, 256))
    tau: float = shared("tau", 0.005)
    layer_norm: bool = setting(False, "layer norm in the critics")
    dropout: float = setting(0.0, "dropout rate in the critics", low=0.0, below=1.0)

    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, tuple[int, ...]]]:
        return [
            (self.n_critics, (obs_size + action_size, *self.hidden, 1)),
            (1, (obs_size, *self.hidden, action_size)),
        ]

    def critic(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> AbstractCritic:
        """The ensemble these settings ask for."""
        return QNetwork(
            obs_size,
            action_set,
            self.hidden,
            key,
            n_critics=self.n_critics,
            activation=self.activation,
            make=functools.partial(Mlp, layer_norm=self.layer_norm, dropout=self.dropout),
        )
