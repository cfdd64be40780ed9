"""Stochastic value gradients for every horizon (Heess et al. 2015; SAC-SVG: Amos et al. 2021).

a  ~ π(· | s)                                                       collect
y  = r + γ (1 − terminated) (min_j q̄_j(s', a') − β log π(a' | s')), a' ~ π(· | s')
θ_j ← θ_j − α ∇ mean (q_j(s, a) − y)²,  all j                       regress, on real transitions
ψ  ← ψ + α ∇ mean log p(s', r | s, a)                               model, where it is learned
w  ← w + α ∇ mean [Σ_{t<n} γᵗ (r_t − β log π_t) + γⁿ tail(s_n)]     improve, through the model
horizon 0 is DDPG's and SAC's step; horizon inf has no tail and no critic
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from fittedq.acting.noise import AbstractExploration, Gaussian, OwnNoise
from fittedq.actions.base import AbstractActionSet
from fittedq.algorithms.base import (
    POLICY_CRITICS,
    NetworkAlgorithm,
    Rules,
    learning_rate,
    refuse_tuning,
    refuse_unread,
    shared,
    target_entropy,
)
from fittedq.approx.models import GaussianModel, KnownModel
from fittedq.approx.networks import DeterministicPolicy, TanhGaussianPolicy, VNetwork
from fittedq.code import told
from fittedq.errors import UserError
from fittedq.problems.dynamics import DYNAMICS
from fittedq.settings import code_setting, setting, settle
from fittedq.template.fits import Descend
from fittedq.template.fqi import FQI, Polyak, Sync, Update
from fittedq.template.gradients import gradient_health, longest_sound, model_error, windows
from fittedq.template.greedy import PolicyAction
from fittedq.template.losses import Regress, TuneTemperature
from fittedq.template.rates import Rate
from fittedq.template.rollout import CriticTail, ImproveThrough, Likelihood, NoTail, Rollout, RolloutBellman, ValueTail
from fittedq.template.targets import Bellman, MinOverCritics, SoftValue
from fittedq.types import AbstractModel, Components, Dynamics, Transition

MEASURED_WINDOWS = 64
"""Windows of transitions on which gradients and model are measured."""


def _in_words(svg: SVG) -> None:
    """A horizon that is a number, and a model that is given, as the words they stand for."""
    if isinstance(svg.horizon, int | float) and not isinstance(svg.horizon, bool):
        try:
            settle(svg, "horizon", f"{svg.horizon:g}")
        except OverflowError:
            settle(svg, "horizon", told(svg.horizon))
    if svg.model is not None and svg.dynamics != "env":
        settle(svg, "dynamics", "own")


def _check_horizon(svg: SVG) -> None:
    if svg.horizon not in ("inf", "auto") and not svg.horizon.isdecimal():
        raise UserError(f"setting horizon: found {svg.horizon}, expected 0, 1, 2, …, auto or inf.")
    if svg.horizon == "inf" and svg.episode_length is None:
        raise UserError("setting horizon: inf needs the length of an episode; set episode_length.")
    if svg.horizon == "0" and svg.tail == "v":
        raise UserError("setting tail: v(s_0) does not depend on the policy; choose q, or a horizon of 1 or more.")
    if svg.horizon == "auto" and svg.health_every == 0:
        raise UserError("setting health_every: found 0, but horizon auto is chosen by what is measured; raise it.")


def _reads_of_its_horizon(svg: SVG) -> None:
    if svg.horizon != "auto":
        refuse_unread(svg, {"max_horizon", "max_model_error", "max_gradient_growth"}, f"horizon = {svg.horizon}")
    if svg.dynamics != "learned":
        of_learning = {"n_models", "model_hidden", "model_learning_rate", "max_overfit"}
        refuse_unread(svg, of_learning, f"dynamics = {svg.dynamics}")
    if svg.policy == "gaussian":
        refuse_unread(svg, {"noise_sigma"}, "a gaussian policy, its own noise,")


def _check_randomness(svg: SVG) -> None:
    if svg.noise == "inferred" and svg.horizon == "auto":
        raise UserError("setting noise: inferred needs a horizon that is fixed; choose fresh, or a number of steps.")
    if svg.noise == "inferred" and svg.policy == "deterministic":
        raise UserError("setting noise: a deterministic policy has no noise to infer; choose fresh, or gaussian.")
    if svg.policy == "deterministic" and svg.temperature != 0.0:
        if svg.temperature is not None:
            raise UserError("setting temperature: a deterministic policy has no entropy; expected 0.")
        settle(svg, "temperature", 0.0)
    refuse_tuning(svg, svg.temperature)


@dataclass(frozen=True, kw_only=True)
class SVG(NetworkAlgorithm):
    __doc__ = __doc__

    name: ClassVar[str] = "svg"
    title: ClassVar[str] = "Stochastic value gradients, any horizon, learned or known model"
    rules: ClassVar[Rules] = (
        _in_words,
        *NetworkAlgorithm.rules,
        _check_horizon,
        _reads_of_its_horizon,
        _check_randomness,
    )

    horizon: str = setting("3", "steps n through the model before the tail: 0, 1, …, auto, or inf (no tail)")
    max_horizon: int = setting(8, "the longest n that auto may choose", low=1)
    max_model_error: float = setting(
        0.3, "auto: the most that the model may be off after n steps, in the states' deviations", above=0.0
    )
    max_gradient_growth: float = setting(
        10.0, "auto: the most that n steps may multiply the gradient's deviation", above=0.0
    )
    health_every: int | None = setting(
        None,
        "steps between measurements of gradient and model by horizon; 0: never; none: 1000 for auto, else never",
        low=0,
    )
    episode_length: int | None = setting(None, "steps of a rollout where the horizon is inf", low=1)
    tail: str = setting("q", "what follows the horizon: q(s_n, a_n) or v(s_n)", choices=("q", "v"))
    policy: str = setting("gaussian", "kind of policy", choices=("gaussian", "deterministic"))
    noise: str = setting(
        "fresh", "noise of the first step: drawn, or inferred from the data", choices=("fresh", "inferred")
    )
    critic_target: str = setting(
        "td",
        "the critic learns from real transitions, or from a rollout from s' (value expansion)",
        choices=("td", "rollout"),
    )
    dynamics: str = setting(
        "learned",
        "a learned model, or known physics; env: the environment's own",
        choices=("learned", "env", "own", *DYNAMICS),
    )
    model: AbstractModel | Dynamics | None = code_setting(
        "a model, or f(s, a, ξ) → (s', r, terminated) in JAX (dynamics=own)", to_act=False
    )
    n_models: int = setting(5, "networks of the learned model", low=1)
    model_hidden: tuple[int, ...] = setting((200, 200), "widths of the model's hidden layers", low=1)
    model_learning_rate: Rate = learning_rate(1e-3, "the model")
    max_overfit: float = setting(
        0.5, "do not fit the model while its held-out loss exceeds its loss by this much, in nats per number", above=0.0
    )
    n_critics: int = shared("n_critics", 2)
    policy_critic: str = shared("policy_critic", "min")
    temperature: float | None = setting(None, "temperature β; 0: no entropy; none: it is tuned", low=0.0)
    initial_temperature: float = shared("initial_temperature", 0.1)
    temperature_learning_rate: Rate = learning_rate(3e-4, "log β")
    target_entropy: float | None = shared("target_entropy", None)
    max_gradient: float = setting(10.0, "the policy's gradient is clipped to this norm", above=0.0)
    noise_sigma: float = setting(0.1, "exploration of a deterministic policy, in half-widths", low=0.0)

    @property
    def endless(self) -> bool:
        """Horizon inf: no critic."""
        return self.horizon == "inf"

    @property
    def learns_model(self) -> bool:
        """Whether the model is fitted."""
        return self.dynamics == "learned" and self.horizon != "0"

    @property
    def longest(self) -> int:
        """The most steps through the model."""
        if self.horizon == "auto":
            return self.max_horizon
        return self.episode_length if self.endless and self.episode_length else int(self.horizon)

    def rollout(self) -> Rollout:
        """What the policy climbs."""
        combine = POLICY_CRITICS[self.policy_critic]
        tail = NoTail() if self.endless else ValueTail() if self.tail == "v" else CriticTail(combine)
        return Rollout(self.longest, self.gamma, tail)

    @property
    def shortest(self) -> int:
        """The least steps after which something depends on the policy."""
        return 0 if self.tail == "q" and not self.endless else 1

    @property
    def measure_every(self) -> int:
        if self.longest == 0:
            return 0
        return (1000 if self.horizon == "auto" else 0) if self.health_every is None else self.health_every

    def measure(
        self, nets: Components, rows: Transition, stride: int, key: PRNGKeyArray
    ) -> tuple[Components, dict[str, float]]:
        """Gradients and model by horizon, and, where it is auto, the longest horizon at which both are sound."""
        if nets.model is None or self.longest == 0:
            return nets, {}
        doubled = (2**power for power in range(self.longest.bit_length()))
        between = range(1, self.longest) if self.horizon == "auto" else doubled
        horizons = sorted({self.shortest, *between, self.longest})
        seen = windows(rows, self.longest, MEASURED_WINDOWS, stride)
        if seen is None:
            return nets, {}
        health = gradient_health(self.rollout(), horizons, nets, seen.obs[:, 0], key)
        errors = np.asarray(model_error(nets.model, seen))
        figures = {f"health/gradient_norm_{n}": float(norm) for n, norm in zip(horizons, health.norm, strict=True)}
        figures |= {f"health/gradient_deviation_{n}": float(d) for n, d in zip(horizons, health.deviation, strict=True)}
        figures |= {f"health/model_error_{n}": float(errors[n - 1]) for n in horizons if n > 0}
        figures["health/exploding"] = float(health.warning is not None)
        if self.horizon == "auto":
            horizon = longest_sound(errors, health, self.max_model_error, self.max_gradient_growth)
            nets = nets.replace("horizon", jnp.asarray(horizon, jnp.int32))
            figures["health/horizon"] = float(horizon)
        return nets, figures

    def networks(self, obs_size: int, action_set: AbstractActionSet, key: PRNGKeyArray) -> Components:
        critic_key, policy_key, value_key, model_key = jax.random.split(key, 4)
        make = TanhGaussianPolicy if self.policy == "gaussian" else DeterministicPolicy
        model = self.model if self.model is None or isinstance(self.model, AbstractModel) else KnownModel(self.model)
        if self.learns_model:
            model = GaussianModel(obs_size, action_set, self.model_hidden, model_key, members=self.n_models)
        elif self.dynamics in DYNAMICS and self.horizon != "0":
            model = KnownModel(DYNAMICS[self.dynamics])
        has_value = self.tail == "v" and not self.endless
        beta = self.initial_temperature if self.temperature is None else self.temperature
        return Components(
            critic=None if self.endless else self.critic(obs_size, action_set, critic_key),
            policy=make(obs_size, action_set, self.hidden, policy_key, activation=self.activation),
            value=VNetwork(obs_size, self.hidden, value_key, activation=self.activation) if has_value else None,
            model=model,
            log_temperature=jnp.asarray(math.log(beta)) if beta > 0 else None,
            horizon=jnp.asarray(self.shortest, jnp.int32) if self.horizon == "auto" else None,
        )

    def layers(self, obs_size: int, action_size: int) -> list[tuple[int, tuple[int, ...]]]:
        model = (self.n_models, (obs_size + action_size, *self.model_hidden, 2 * obs_size + 2))
        return super().layers(obs_size, action_size) + [model] * self.learns_model

    def template(self, action_set: AbstractActionSet) -> FQI:
        if self.dynamics in ("own", "env") and self.model is None and self.horizon != "0":
            raise UserError(
                f"setting dynamics: {self.dynamics} needs the model itself; give "
                + (
                    "model=…, or, where a run is resumed, code={'model': …}."
                    if self.dynamics == "own"
                    else "a JAX environment to train in."
                )
            )
        updates: tuple[Update, ...] = ()
        if self.learns_model:
            updates += (Update("model", Likelihood(self.max_overfit), self.descend(self.model_learning_rate)),)
        if not self.endless:
            target = Bellman(self.gamma, MinOverCritics())
            if self.critic_target == "rollout":
                target = RolloutBellman(self.gamma, Rollout(self.longest, self.gamma, CriticTail(MinOverCritics())))
            updates += (Update("critic", Regress(target), self.descend(self.critic_learning_rate)),)
            if self.tail == "v":
                updates += (
                    Update("value", Regress(SoftValue(MinOverCritics())), self.descend(self.critic_learning_rate)),
                )
        improve = ImproveThrough(self.rollout(), inferred=self.noise == "inferred")
        updates += (Update("policy", improve, Descend(self.policy_optimizer())),)
        if self.temperature is None:
            tune = TuneTemperature(target_entropy(self.target_entropy, action_set))
            updates += (Update("log_temperature", tune, self.descend(self.temperature_learning_rate)),)
        return FQI(greedy=PolicyAction(), updates=updates, sync=Sync(critic=None if self.endless else Polyak(self.tau)))

    def exploration(self) -> AbstractExploration:
        return OwnNoise() if self.policy == "gaussian" else Gaussian(self.noise_sigma)

    def policy_optimizer(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(self.max_gradient), self.optimizer_at(self.policy_learning_rate))
