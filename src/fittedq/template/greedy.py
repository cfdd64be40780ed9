# pyright: reportUnknownMemberType=false
"""The greedy step: an action near argmax_a q(s', a) for every s' of a batch, computed once for all updates."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.host import refuse_forked
from fittedq.arrays import Arr
from fittedq.maximize.base import AbstractMaximizer, BestStart, Solution, random_starts, refuse_misfit, shorter
from fittedq.maximize.choose import auto
from fittedq.slots import NOT_NEGATIVE, SHARE, AbstractSlot
from fittedq.template.support import Support, searched
from fittedq.types import AbstractCritic, Components, Greedy, needed

SCREENED = 4
"""Random actions that are looked at before a shortened search, beside the answer it goes on from."""
STARTS_ALONE = 16
"""Random starts, at least, of a controller that solves: it knows no answer to go on from."""


class AbstractGreedy(AbstractSlot):
    """(networks, s') → an action near argmax_a q(s', a).

    `nets` holds the frozen copy of a component where there is one, else the live component. `needs` names the
    components it reads, as `FQI` checks it.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def __call__(self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy:
        """Actions [b, m] in A(s), log π(a | s) [b] (0 for a deterministic one), and which a solver found [b]."""


class PolicyAction(AbstractGreedy):
    """a' = π(s'), or a' ~ π(· | s'): the amortized argmax."""

    needs: ClassVar[frozenset[str]] = frozenset({"policy"})

    def __call__(self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy:
        action, log_prob = needed(nets.policy).sample(obs, key)
        return Greedy(action, log_prob, jnp.zeros(obs.shape[:-1], bool))


class Smoothed(AbstractGreedy):
    """ã = Π_A(a' + half_width · clip(σ ε, −c, c)): target policy smoothing, the noise clipped first and ã after.

    σ is a standard deviation in units of the box's half-width. Source: Fujimoto et al. 2018, section 5.3.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"policy"})
    inner: AbstractGreedy
    sigma: float = eqx.field(static=True, metadata=NOT_NEGATIVE)
    clip: float = eqx.field(static=True, metadata=NOT_NEGATIVE)

    def __call__(self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy:
        inner_key, noise_key = jax.random.split(key)
        greedy = self.inner(nets, obs, inner_key)
        action_set = needed(nets.policy).action_set
        noise = jnp.clip(
            self.sigma * jax.random.normal(noise_key, greedy.action.shape, greedy.action.dtype), -self.clip, self.clip
        )
        half_width = jnp.asarray(action_set.half_width, greedy.action.dtype)
        action = action_set.project(greedy.action + half_width * noise, obs)
        return Greedy(action, greedy.log_prob, greedy.solved)


class Ascended(AbstractGreedy):
    """ã ≈ argmax_a q̄(s', a), searched by `maximizer` from the a' of `inner`: never of less q̄ than a'.

    log π stays that of a', which was drawn: ã itself has no density.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic"})
    inner: AbstractGreedy
    maximizer: AbstractMaximizer[Any]

    def __call__(self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy:
        inner_key, search_key = jax.random.split(key)
        greedy, critic = self.inner(nets, obs, inner_key), needed(nets.critic)
        refuse_misfit(self.maximizer, critic, critic.action_set)
        found = self.maximizer(critic, obs, critic.action_set, greedy.action[:, None], search_key)
        return Greedy(found.action, greedy.log_prob, jnp.ones_like(greedy.solved), found.upper_bound)


class Split(NamedTuple):
    """What solves on some rows of a dataset, what acts on the others, and for how many iterations a solved action
    stays a label of the policy (0: only the one that solved it)."""

    solver: Solved
    elsewhere: AbstractGreedy | None
    max_age: int


class AbstractSolving(AbstractGreedy):
    """A greedy step that solves the argmax. Over a dataset it says on which rows, and a solver starts from the last
    answer there."""

    @abc.abstractmethod
    def split(self) -> Split:
        """Its parts."""

    @abc.abstractmethod
    def rows(self, size: int, last_gap: Float[np.ndarray, "n"], rng: np.random.Generator) -> np.ndarray:
        """The indices that are solved among `size` rows, in order; `last_gap` is q̄ at the solver's action less q̄ at
        the policy's when a row was last solved, +∞ where it never was."""


class Solved(AbstractSolving):
    """a' = argmax_{a ∈ A(s')} q̄(s', a) by a maximizer. Source: chapter, "Embedded Optimization".

    Without a `maximizer`, `rule` chooses one for the critic and its action set. With a `support` the set is what the
    log supports of A(s'). Starts, where it needs them: those handed in (last iteration's answers, say), the policy's
    action where there is a policy, and `random_starts` uniform ones; the answer is never worse than the best of them.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"critic"})
    maximizer: AbstractMaximizer[Any] | None = None
    random_starts: int = eqx.field(static=True, default=4, metadata=NOT_NEGATIVE)
    rule: Callable[[AbstractCritic, AbstractActionSet], AbstractMaximizer[Any]] = eqx.field(static=True, default=auto)
    support: Support | None = None
    tolerance: float = eqx.field(static=True, default=1e-3, metadata=NOT_NEGATIVE)
    """Over a dataset: the gain of this search over the `shorter` one, on average and in deviations of max q from
    state to state, up to which the shortened one is enough. 0: it never is."""

    def actions_at_once(self, size: int) -> int:
        """Its starts."""
        return 1 + self.random_starts

    def chosen(self, critic: AbstractCritic, action_set: AbstractActionSet | None = None) -> AbstractMaximizer[Any]:
        """What solves for this critic, over its own set or another; a UserError where that is known not to."""
        action_set = critic.action_set if action_set is None else action_set
        if self.maximizer is None:
            return self.rule(critic, action_set)
        refuse_misfit(self.maximizer, critic, action_set)
        return self.maximizer

    def solves_on_host(self, nets: Components) -> bool:
        """Whether what solves for these components works on the host."""
        return self.chosen(needed(nets.critic), searched(self.support, nets)).on_host

    def __call__(
        self,
        nets: Components,
        obs: Float[Arr, "b s"],
        key: PRNGKeyArray,
        starts: Float[Arr, "b k m"] | None = None,
    ) -> Greedy:
        solution = self.solution(nets, obs, key, starts)
        return Greedy(
            action=solution.action,
            log_prob=jnp.zeros(obs.shape[0], solution.action.dtype),
            solved=jnp.ones(obs.shape[0], bool),
            upper_bound=solution.upper_bound,
        )

    def solution(
        self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray, starts: Float[Arr, "b k m"] | None = None
    ) -> Solution:
        """What the maximizer found."""
        critic, action_set = needed(nets.critic), searched(self.support, nets)
        maximizer = self.chosen(critic, action_set)
        if maximizer.needs_starts:
            start_key, key = jax.random.split(key)
            starts = self.starts(nets, obs, start_key, starts)
        return maximizer(critic, obs, action_set, starts, key)

    def shorter(self, nets: Components) -> AbstractMaximizer[Any] | None:
        """A shorter search, for states of which nearly the answer is known; None: there is none, or none that is asked
        for."""
        if not self.tolerance:
            return None
        return shorter(self.chosen(needed(nets.critic), searched(self.support, nets)))

    def looking(self) -> Solved:
        """No search: the best of its starts, and of some random ones more."""
        return dataclasses.replace(self, maximizer=BestStart(), random_starts=max(SCREENED, self.random_starts))

    def going_on(
        self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray, starts: Float[Arr, "b k m"]
    ) -> Solution:
        """What the shorter search finds from these starts alone."""
        search = needed(self.shorter(nets))
        return search(needed(nets.critic), obs, searched(self.support, nets), starts, key)

    def starts(
        self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray, given: Float[Arr, "b k m"] | None
    ) -> Float[Arr, "b n m"]:
        """Those given, the policy's action, random ones."""
        action_set = searched(self.support, nets)
        tried = [] if given is None else [given]
        if nets.policy is not None:
            tried.append(nets.policy.act(obs, jnp.zeros((obs.shape[0], action_set.size), obs.dtype))[:, None])
        if self.random_starts or not tried:
            tried.append(random_starts(action_set, obs, max(self.random_starts, 1), key))
        return jnp.concatenate(tried, axis=1)

    def split(self) -> Split:
        return Split(self, None, 0)

    def rows(self, size: int, last_gap: Float[np.ndarray, "n"], rng: np.random.Generator) -> np.ndarray:
        return np.arange(size)


class PartlySolved(AbstractSolving):
    """a' = argmax_a q̄(s', a) on B_opt, π̄(s') elsewhere. Source: chapter, "Amortized Optimization".

    B_opt holds `count` rows of a dataset, or a `share`: drawn uniformly, or those where q̄ at the solver's action
    exceeded q̄ at the policy's by most when they were last solved (`rule="gap"`; rows never solved come first). Inside
    a compiled update it holds each row of the batch with probability `share`. A solved action stays a label of the
    policy up to `max_age` iterations.
    """

    solver: Solved
    share: float = eqx.field(static=True, metadata=SHARE)
    count: int | None = eqx.field(static=True, default=None, metadata=NOT_NEGATIVE)
    rule: str = eqx.field(static=True, default="uniform", metadata={"choices": ("uniform", "gap")})
    max_age: int = eqx.field(static=True, default=0, metadata=NOT_NEGATIVE)
    amortized: PolicyAction = PolicyAction()

    def __call__(self, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Greedy:
        row_key, solver_key, policy_key = jax.random.split(key, 3)
        rows = jax.random.uniform(row_key, obs.shape[:1]) < self.share
        return merged(rows, self.solver(nets, obs, solver_key), self.amortized(nets, obs, policy_key))

    def split(self) -> Split:
        return Split(self.solver, self.amortized, self.max_age)

    def rows(self, size: int, last_gap: Float[np.ndarray, "n"], rng: np.random.Generator) -> np.ndarray:
        count = min(size, round(self.share * size) if self.count is None else self.count)
        order = rng.permutation(size)
        if self.rule == "gap":
            order = order[np.argsort(-last_gap[order], kind="stable")]
        return np.sort(order[:count])


def merged(rows: Bool[Arr, "b"], solved: Greedy, amortized: Greedy) -> Greedy:
    """The solver's actions on `rows`, the policy's elsewhere."""
    return Greedy(
        action=jnp.where(rows[:, None], solved.action, amortized.action),
        log_prob=jnp.where(rows, solved.log_prob, amortized.log_prob),
        solved=rows,
    )


SOLVED_SIDE_BY_SIDE = 1024
"""States that are solved side by side."""


class SolvedPolicy:
    """π(s) = argmax_a q(s, a), solved whenever asked: the controller of a method that learns no policy.

    On the host; the solver is compiled once per batch size. It begins from more points than a fit's does, which goes on
    from the answers of the last iteration.
    """

    def __init__(self, greedy: Solved, nets: Components):
        self._solve = solved_together if greedy.solves_on_host(nets) else eqx.filter_jit(solved_alike)
        self._greedy = dataclasses.replace(greedy, random_starts=max(STARTS_ALONE, greedy.random_starts))
        self._nets = Components(critic=nets.critic, behaviour=nets.behaviour)

    def act(self, obs: Float[Arr, "b s"], normal: Float[Arr, "b m"]) -> Float[np.ndarray, "b m"]:
        """The same answer for the same state, in any batch: whatever is random is the same each time."""
        del normal
        refuse_forked("solving for the greedy action")
        key = jax.random.key_data(jax.random.key(0))
        return np.asarray(self._solve(self._greedy, self._nets, obs, key))


def solved_together(greedy: Solved, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Float[Arr, "b m"]:
    """The solver's actions in one call."""
    return greedy(nets, obs, key).action


def solved_alike(greedy: Solved, nets: Components, obs: Float[Arr, "b s"], key: PRNGKeyArray) -> Float[Arr, "b m"]:
    """The solver's action in each state as though it stood alone: random starts are drawn by a row's place."""

    def alone(state: Float[Arr, "s"]) -> Float[Arr, "m"]:
        return greedy(nets, state[None], key).action[0]

    return jnp.asarray(jax.lax.map(alone, jnp.asarray(obs), batch_size=max(1, min(len(obs), SOLVED_SIDE_BY_SIDE))))
