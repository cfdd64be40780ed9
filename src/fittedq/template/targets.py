# pyright: reportUnknownMemberType=false
"""Target maps T_q: what a critic or a value network is regressed on."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.embedding import RangedCritic
from fittedq.approx.networks import QNetwork
from fittedq.arrays import Arr, Tree
from fittedq.bellman import least, smooth_max, soft_value, td_target, value_range
from fittedq.errors import UserError
from fittedq.slots import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, AbstractSlot
from fittedq.template.support import Support, searched
from fittedq.types import AbstractCritic, Components, DrawnRows, Greedy, Transition, needed


class Labelled(eqx.Module):
    """A regression set D: the inputs of a component, row by row, and the targets y.

    A target may be a distribution, Σ_k weight_k δ(y_k). `beside` are inputs that pass through a batch-normalized
    network together with these, and have no target. `importance` is what the error of a row counts; None: all the same.
    `aside` is what a penalty has drawn, row by row.
    """

    inputs: tuple[Float[Arr, "b _"], ...]
    y: Float[Arr, "b *k"]
    weight: Float[Arr, "b k"] | None = None
    beside: tuple[Float[Arr, "b _"], ...] | None = None
    importance: Float[Arr, "b"] | None = None
    aside: Tree = None

    def as_drawn(self, target: AbstractTarget, batch: Transition, drawn: DrawnRows) -> Labelled:
        """D of `target` for rows so drawn: y ← R + γⁿ⁻¹ (y − R) over n steps, R the discounted sum of their rewards.

        As y − R = γ (1 − terminated) f(s'), that is R + γⁿ (1 − terminated) f(s').
        """
        y = self.y
        if drawn.discount is not None and target.bootstraps:
            reward, discount = (column.reshape(-1, *[1] * (y.ndim - 1)) for column in (batch.reward, drawn.discount))
            y = reward + discount * (y - reward)
        return dataclasses.replace(self, y=y, importance=drawn.weight)


class AbstractCombine(AbstractSlot):
    """How an ensemble's values become one."""

    needs: ClassVar[frozenset[str]] = frozenset({"critic"})

    @abc.abstractmethod
    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        """One value for each row, of `critic(obs, action, key)` [n, b]."""


class MinOverCritics(AbstractCombine):
    """min_j q_j(s, a), over all critics or over a random `subset` of them drawn anew for each batch.

    Source: Fujimoto et al. 2018, section 4 (two critics); Chen et al. 2021 (REDQ: two of ten).
    """

    subset: int | None = eqx.field(static=True, default=None, metadata=COUNT)

    def check_components(self, nets: Components) -> None:
        """A UserError where there are fewer critics than the subset has."""
        _check_subset(self, self.subset, nets)

    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        dropout_key, subset_key = jax.random.split(key)
        return least(_drawn(critic, self.subset, subset_key)(obs, action, dropout_key))


def _check_subset(slot: AbstractSlot, subset: int | None, nets: Components) -> None:
    size = needed(nets.critic).size
    if subset is not None and subset > size:
        raise UserError(f"{type(slot).__name__}: subset: found {subset}, expected at most the {size} there are.")


def _drawn(critic: AbstractCritic, subset: int | None, key: PRNGKeyArray) -> AbstractCritic:
    """So many critics of the ensemble, drawn without replacement; all of them where it has no more."""
    if subset is None or subset >= critic.size:
        return critic
    return critic.subset(jax.random.choice(key, critic.size, (subset,), replace=False))


class FirstCritic(AbstractCombine):
    """q_1(s, a)."""

    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        return critic.subset(slice(0, 1))(obs, action, key)[0]


class MeanOverCritics(AbstractCombine):
    """mean_j q_j(s, a). Source: Chen et al. 2021, algorithm 1, line 12."""

    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        return jnp.mean(critic(obs, action, key), axis=0)


class WithinSeen(AbstractCombine):
    """What `combine` gives, clipped to the labels that the critic had been fitted to when it was copied.

    The critic is a `RangedCritic`. Source: Fujimoto et al. 2023, section 4.2 (extrapolation error).
    """

    combine: AbstractCombine

    def __call__(
        self, critic: AbstractCritic, obs: Float[Arr, "b s"], action: Float[Arr, "b m"], key: PRNGKeyArray
    ) -> Float[Arr, "b"]:
        return cast("RangedCritic", critic).clipped(self.combine(critic, obs, action, key))

    def check_components(self, nets: Components) -> None:
        """A UserError where the critic keeps no range."""
        if not isinstance(nets.critic, RangedCritic):
            raise UserError(
                f"WithinSeen: found a critic of type {type(nets.critic).__name__}, which keeps no range of its labels; "
                "expected RangedCritic(critic)."
            )


class AbstractTarget(AbstractSlot):
    """T_q: `nets` holds the frozen copy of a component where there is one, else the live component.

    `needs` names what a slot reads, as `FQI` checks it: components, `greedy`, or a whole `dataset`.
    """

    bootstraps: ClassVar[bool | None] = None
    """Whether y = r + γ (1 − terminated) f(s'), of which `Labelled.as_drawn` makes y over several steps; False: the
    reward is not in it; None: neither is known."""
    clips: ClassVar[bool] = False
    """Whether labels are cut to the values that all rewards of a dataset allow."""

    @abc.abstractmethod
    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        """D: the inputs (x, …), each [b, …], of the component that is fitted, and its targets y [b]."""

    @abc.abstractmethod
    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        """[low, high] that holds the labels of the fixed point, for rewards in [r_min, r_max]; ±∞ where none is known.

        Where actions are drawn it holds the mean over them, not every draw.
        """

    def largest(self, nets: Components, reward: tuple[float, float]) -> float:
        """max |label| of the fixed point; ∞ where either end of `value_range` is unknown."""
        return max(abs(bound) for bound in self.value_range(nets, reward))

    def settled(
        self, data: Labelled, nets: Components, reward: tuple[float, float]
    ) -> tuple[Labelled, dict[str, float]]:
        """(D, figures) over a whole dataset of such rewards, on the host. D is clipped where that is asked for. The
        figures are max |y| and, where it is known, the largest value that rewards allow: above it the iteration
        diverges."""
        bounds = self.value_range(nets, reward)
        if self.clips:
            with np.errstate(over="ignore"):  # a bound that float32 cannot hold bounds nothing
                low, high = np.asarray(bounds).astype(np.float32)
            data = dataclasses.replace(data, y=np.clip(data.y, low, high))
        figures = {"max_abs_target": float(np.abs(data.y).max())}
        largest = self.largest(nets, reward)
        return data, figures | {"largest_value": largest} if math.isfinite(largest) else figures


class Clipped(AbstractTarget):
    """D = {(x, clip(y, low, high))}, D = {(x, y)} that of `target` and [low, high] the `range`.

    Without a range it is `target.value_range` of all rewards seen. No policy's value lies outside, but an extrapolating
    critic's may. That range is known where all of a dataset is fitted, and `settled` applies it.
    """

    clips: ClassVar[bool] = True
    target: AbstractTarget
    range: tuple[float, float] | None = eqx.field(static=True, default=None)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"dataset"} if self.range is None else ())

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        labelled = self.target(nets, batch, greedy, key)
        return labelled if self.range is None else dataclasses.replace(labelled, y=jnp.clip(labelled.y, *self.range))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        return self.target.value_range(nets, reward) if self.range is None else self.range


def entropy_bonus(nets: Components) -> tuple[float, float]:
    """The h of `bellman.value_range` for q − β log π: densities are over the outer box."""
    if nets.log_temperature is None:
        return 0.0, 0.0
    return -math.inf, float(nets.temperature) * needed(nets.policy).action_set.log_volume


class Bellman(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) (q̄(s', a') − β log π(a' | s')))}, β = 0 without a temperature, or where the
    target is not `soft`."""

    bootstraps: ClassVar[bool | None] = True
    needs: ClassVar[frozenset[str]] = frozenset({"greedy"})
    gamma: float = eqx.field(static=True, metadata=BELOW_ONE)
    combine: AbstractCombine
    soft: bool = eqx.field(static=True, default=True)

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        greedy = needed(greedy)
        q = self.combine(needed(nets.critic), batch.next_obs, greedy.action, key)
        next_value = soft_value(q, greedy.log_prob, nets.temperature if self.soft else 0.0)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, next_value, self.gamma))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        return value_range(reward, self.gamma, entropy_bonus(nets) if self.soft else (0.0, 0.0))


class BellmanNear(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) (q̄(s', a') − β ‖(a' − a'_log) / half_width‖²))}, a'_log the action that was
    taken at s'.

    Where no row tells it, as at the end of a log, nothing is taken off.
    Source: Tarasov et al. 2023 (ReBRAC), section 3.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic", "greedy", "next_action"})
    gamma: float = eqx.field(static=True, metadata=BELOW_ONE)
    combine: AbstractCombine
    near: float = eqx.field(static=True, metadata=NOT_NEGATIVE)

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        greedy, critic = needed(greedy), needed(nets.critic)
        value = self.combine(critic, batch.next_obs, greedy.action, key)
        if greedy.logged is not None:
            known = ~jnp.isnan(greedy.logged)
            apart = (greedy.action - greedy.logged) / jnp.asarray(critic.action_set.half_width, value.dtype)
            value = value - self.near * jnp.sum(jnp.where(known, apart, 0.0) ** 2, axis=-1)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, value, self.gamma))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        """No lower end: the distance is taken off at every step."""
        return -math.inf, value_range(reward, self.gamma)[1]


class AbstractPool(AbstractSlot):
    """How the distributions of an ensemble become one."""

    @abc.abstractmethod
    def __call__(
        self, atoms: Float[Arr, "n b k"], weight: Float[Arr, "n b k"]
    ) -> tuple[Float[Arr, "b K"], Float[Arr, "b K"]]:
        """(z, w) of one distribution Σ w δ(z) a row."""


class LeastMean(AbstractPool):
    """The distribution of the critic whose mean is least, row by row: of one atom each, min_j q_j."""

    def __call__(
        self, atoms: Float[Arr, "n b k"], weight: Float[Arr, "n b k"]
    ) -> tuple[Float[Arr, "b K"], Float[Arr, "b K"]]:
        # Compared one after another: a gather costs more than both distributions.
        best, mean = (atoms[0], weight[0]), (atoms[0] * weight[0]).sum(-1)
        for other in zip(atoms[1:], weight[1:], strict=True):
            value = (other[0] * other[1]).sum(-1)
            best = tuple(jnp.where((value < mean)[:, None], new, old) for new, old in zip(other, best, strict=True))
            mean = jnp.minimum(value, mean)
        return best[0], best[1]


class Truncated(AbstractPool):
    """All atoms together, without the `drop` · n largest of n critics; those left are of equal weight.

    Source: Kuznetsov et al. 2020 (TQC), section 3.
    """

    drop: int = eqx.field(static=True, default=2, metadata=NOT_NEGATIVE)

    def __call__(
        self, atoms: Float[Arr, "n b k"], weight: Float[Arr, "n b k"]
    ) -> tuple[Float[Arr, "b K"], Float[Arr, "b K"]]:
        n, b, k = atoms.shape
        pooled = jnp.sort(jnp.moveaxis(atoms, 0, 1).reshape(b, n * k), axis=-1)[:, : n * (k - self.drop)]
        return pooled, jnp.full_like(pooled, 1 / pooled.shape[1])


class BellmanOfReturns(AbstractTarget):
    """D = {((s, a), Σ_k w_k δ(r + γ (1 − terminated) (z_k − β log π(a' | s'))))}, (z, w) the return's at (s', a').

    `pool` makes one distribution of the ensemble's, or of a random `subset` of it, drawn anew for each batch. With
    `together` the critic that is fitted to D passes over (s, a) and (s', a') as one batch: normalized each by itself,
    their values would be drawn to the same mean.
    Source: Bellemare et al. 2017, eq. 7; Bhatt et al. 2024, section 3.
    """

    bootstraps: ClassVar[bool | None] = True
    needs: ClassVar[frozenset[str]] = frozenset({"critic", "greedy"})
    gamma: float = eqx.field(static=True, metadata=BELOW_ONE)
    pool: AbstractPool = LeastMean()
    together: bool = eqx.field(static=True, default=False)
    subset: int | None = eqx.field(static=True, default=None, metadata=COUNT)

    def check_components(self, nets: Components) -> None:
        """A UserError where there are fewer critics than the subset has."""
        _check_subset(self, self.subset, nets)

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        greedy = needed(greedy)
        critic = cast("QNetwork", _drawn(needed(nets.critic), self.subset, jax.random.fold_in(key, 1)))
        atoms, weight = self.pool(*critic.head.atoms(critic.outputs(batch.next_obs, greedy.action, key)))
        value = soft_value(atoms, greedy.log_prob[:, None], nets.temperature)
        y = td_target(batch.reward[:, None], batch.terminated[:, None], value, self.gamma)
        beside = (batch.next_obs, greedy.action) if self.together else None
        return Labelled((batch.obs, batch.action), y, weight, beside)

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        return value_range(reward, self.gamma, entropy_bonus(nets))


class BellmanFromValue(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) v̄(s'))}. Source: Haarnoja et al. 2018, eq. 8."""

    bootstraps: ClassVar[bool | None] = True
    needs: ClassVar[frozenset[str]] = frozenset({"value"})
    gamma: float = eqx.field(static=True, metadata=BELOW_ONE)

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy, key
        next_value = needed(nets.value)(batch.next_obs)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, next_value, self.gamma))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        return value_range(reward, self.gamma, entropy_bonus(nets))


class ValueOfLog(AbstractTarget):
    """D = {(s, r + γ (1 − terminated) v̄(s'))}: the value of the policy that logged, by TD(0)."""

    bootstraps: ClassVar[bool | None] = True
    needs: ClassVar[frozenset[str]] = frozenset({"value"})
    gamma: float = eqx.field(static=True, metadata=BELOW_ONE)

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy, key
        next_value = needed(nets.value)(batch.next_obs)
        return Labelled((batch.obs,), td_target(batch.reward, batch.terminated, next_value, self.gamma))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        return value_range(reward, self.gamma)


class SoftValue(AbstractTarget):
    """D = {(s, min_j q_j(s, a) − β log π(a | s))}, a ~ π(· | s): both at s, the state being regressed.

    Source: Haarnoja et al. 2018, eq. 5.
    """

    bootstraps: ClassVar[bool | None] = False
    needs: ClassVar[frozenset[str]] = frozenset({"policy"})
    combine: AbstractCombine

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy
        action_key, critic_key = jax.random.split(key)
        action, log_prob = needed(nets.policy).sample(batch.obs, action_key)
        q = self.combine(needed(nets.critic), batch.obs, action, critic_key)
        return Labelled((batch.obs,), soft_value(q, log_prob, nets.temperature))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        """Unknown: the target follows the critics, and nothing here says how they discount."""
        return -math.inf, math.inf


class ValueAsLogged(AbstractTarget):
    """D = {(s, q̄(s, a))}, a the action that was logged at s. Source: Kostrikov et al. 2022 (IQL), eq. 5."""

    bootstraps: ClassVar[bool | None] = False
    combine: AbstractCombine

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy
        return Labelled((batch.obs,), self.combine(needed(nets.critic), batch.obs, batch.action, key))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        """Unknown: the target follows the critics, and nothing here says how they discount."""
        return -math.inf, math.inf


class AbstractNodes(AbstractSlot):
    """a_k and log weights w_k of an integral over the box around A(s): ∫ f(a) da ≈ Σ_k exp(w_k) f(a_k)."""

    @abc.abstractmethod
    def __call__(
        self, action_set: AbstractActionSet, obs: Float[Arr, "b s"], key: PRNGKeyArray
    ) -> tuple[Float[Arr, "b k m"], Float[Arr, "b k"]]:
        """(a_k, w_k) for each state, in the environment's units."""


class Quadrature(AbstractNodes):
    """The product of Gauss–Legendre rules of `points` nodes per dimension: for m ≤ 2."""

    points: int = eqx.field(static=True, default=17, metadata=COUNT)

    def actions_at_once(self, size: int) -> int:
        return self.points**size

    def __call__(
        self, action_set: AbstractActionSet, obs: Float[Arr, "b s"], key: PRNGKeyArray
    ) -> tuple[Float[Arr, "b k m"], Float[Arr, "b k"]]:
        del key
        node, weight = np.polynomial.legendre.leggauss(self.points)
        mesh = np.stack(np.meshgrid(*[node] * action_set.size, indexing="ij"), axis=-1).reshape(-1, action_set.size)
        log_weight = sum(np.log(part).ravel() for part in np.meshgrid(*[weight] * action_set.size, indexing="ij"))
        return _over_bounds(action_set, obs, mesh[None], np.asarray(log_weight))


class UniformSamples(AbstractNodes):
    """`count` actions drawn uniformly from the box, each of weight |box| / count."""

    count: int = eqx.field(static=True, default=64, metadata=COUNT)

    def actions_at_once(self, size: int) -> int:
        return self.count

    def __call__(
        self, action_set: AbstractActionSet, obs: Float[Arr, "b s"], key: PRNGKeyArray
    ) -> tuple[Float[Arr, "b k m"], Float[Arr, "b k"]]:
        unit = jax.random.uniform(key, (len(obs), self.count, action_set.size), minval=-1.0, maxval=1.0)
        log_weight = action_set.size * np.log(2.0) - np.log(self.count)
        return _over_bounds(action_set, obs, unit, np.full(self.count, log_weight))


def _over_bounds(
    action_set: AbstractActionSet, obs: Float[Arr, "b s"], unit: Float[Arr, "#b k m"], log_weight: Float[Arr, "k"]
) -> tuple[Float[Arr, "b k m"], Float[Arr, "b k"]]:
    """Nodes of [−1, 1]^m carried to the smallest box around each A(s)."""
    low, high = (jnp.asarray(bound)[:, None] for bound in action_set.bounds(obs))
    half_width = (high - low) / 2
    action = (low + high) / 2 + half_width * jnp.asarray(unit, obs.dtype)
    weight = jnp.asarray(log_weight, obs.dtype) + jnp.sum(jnp.log(half_width), axis=-1)
    rows = len(obs)
    return jnp.broadcast_to(action, (rows, *action.shape[1:])), jnp.broadcast_to(weight, (rows, len(log_weight)))


class SmoothBellman(AbstractTarget):
    """D = {((s, a), r + γ (1 − terminated) v_β(s'))}, v_β(s') = β log ∫_A exp(min_j q̄_j(s', a) / β) da.

    v_β may lie below max q, and never exceeds max q + β log |A|: the set must be bounded for it to contract. Nodes
    outside A(s') count for nothing, and where there are no others v_β is −∞. With a `support` A(s') is what the log
    supports of it.
    Source: chapter, "Soft Actor-Critic", the smooth Bellman operator.
    """

    bootstraps: ClassVar[bool | None] = True
    needs: ClassVar[frozenset[str]] = frozenset({"critic"})
    gamma: float = eqx.field(static=True, metadata=BELOW_ONE)
    temperature: float = eqx.field(static=True, metadata=POSITIVE)
    nodes: AbstractNodes
    support: Support | None = None

    def __call__(self, nets: Components, batch: Transition, greedy: Greedy | None, key: PRNGKeyArray) -> Labelled:
        del greedy
        rows = batch.next_obs.shape[0]
        critic, action_set = needed(nets.critic), searched(self.support, nets)
        action, log_weight = self.nodes(action_set, batch.next_obs, key)
        count = action.shape[1]
        obs = jnp.repeat(batch.next_obs, count, axis=0)
        if not _fills_its_box(action_set):
            inside = action_set.contains(action.reshape(rows * count, -1), obs).reshape(rows, count)
            log_weight = jnp.where(inside, log_weight, -jnp.inf)
        q = least(critic(obs, action.reshape(rows * count, -1))).reshape(rows, count)
        next_value = smooth_max(q, log_weight, self.temperature)
        return Labelled((batch.obs, batch.action), td_target(batch.reward, batch.terminated, next_value, self.gamma))

    def value_range(self, nets: Components, reward: tuple[float, float]) -> tuple[float, float]:
        """h = β log |A| in a box. Of another set only |A| ≤ |outer box| is known, so there is no lower end."""
        action_set = searched(self.support, nets)
        high = self.temperature * action_set.log_volume
        return value_range(reward, self.gamma, (high if _fills_its_box(action_set) else -math.inf, high))


def _fills_its_box(action_set: AbstractActionSet) -> bool:
    """Whether A(s) is the outer box at every s."""
    return action_set.separable and not action_set.reads_obs
