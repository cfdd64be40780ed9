"""A controller as a `ControlProgram`: what networks, policies and sets of actions are in stages."""

from __future__ import annotations

import functools
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fittedq.acting.status import HELD_BACK
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.increments import Increments
from fittedq.actions.mixed import Mixed
from fittedq.actions.polytope import Polytope
from fittedq.approx.dense import dense
from fittedq.approx.embedding import EmbeddedMlp, StateActionEncoder
from fittedq.approx.hyperspherical import SHIFT, HypersphericalMlp
from fittedq.approx.net import AbstractNet, Activation
from fittedq.approx.networks import ACTIVATIONS, ClippedGaussianPolicy, DeterministicPolicy, TanhGaussianPolicy
from fittedq.approx.residual import ResidualMlp
from fittedq.arrays import Tree, inwards
from fittedq.control.state import AugmentedState
from fittedq.data.statistics import RunningMoments
from fittedq.errors import UserError
from fittedq.export.program import (
    AbstractSolver,
    AbstractStage,
    Activate,
    Affine,
    Append,
    AverageL1,
    Blend,
    Clip,
    ControlProgram,
    Dense,
    Edges,
    GuardStage,
    Join,
    LayerNorm,
    NearestPoint,
    Normalize,
    ProgramLine,
    RoundWhole,
    Stretch,
    UnitLength,
)
from fittedq.types import AbstractPolicy


def program_of(
    policy: AbstractPolicy | None,
    action_set: AbstractActionSet,
    moments: RunningMoments | None,
    memory: AugmentedState | None,
    fallback: Float[np.ndarray, "m"],
    obs_size: int,
    before: Float[np.ndarray, "m"] | None = None,
    guard: GuardStage | None = None,
    solver: AbstractSolver | None = None,
    holds: bool = False,
) -> ControlProgram:
    """The program of a policy, a solver, or a solver that begins at a policy's action, with what stands before and
    behind it; a UserError names what no program can say."""
    draft = Draft(obs_size if memory is None else memory.size)
    seen = 0 if moments is None else draft.add(_normalize(moments), 0)
    actions = [] if policy is None else [policy_lines(policy, draft, seen)]
    if policy is not None and action_set != policy.action_set:
        actions = [projection_lines(action_set, draft, actions[0], 0)]
    (action,) = actions if solver is None else [draft.add(solver, seen, *actions)]
    limits = action_set if memory is None else memory.limits
    return ControlProgram(
        obs_size=obs_size,
        action_size=action_set.size,
        memory=memory,
        lines=draft.until(action),
        edges=_edges(action_set),
        fallback=_single(fallback),
        start=_single(limits.center if before is None else before),
        low=_single(limits.low),
        high=_single(limits.high),
        guard=guard,
        holds=holds,
    )


@final
class Draft:
    """A program while it is network_lines: `add` a stage, and get the number of its value."""

    def __init__(self, seen: int):
        self._sizes, self._lines = [seen], list[ProgramLine]()

    def add(self, stage: AbstractStage, *sources: int) -> int:
        """The number of the value that this stage makes of these."""
        self._lines.append(ProgramLine(stage, sources))
        self._sizes.append(stage.size)
        return len(self._lines)

    def size(self, value: int) -> int:
        """Numbers in a value."""
        return self._sizes[value]

    def dense(self, weight: Tree, bias: Tree, x: int) -> int:
        """x · weight + bias."""
        return self.add(Dense(_single(weight), _single(bias).reshape(-1)), x)

    def normed(self, gain: Tree, shift: Tree, x: int) -> int:
        """A layer norm of x."""
        return self.add(LayerNorm(_single(gain).reshape(-1), _single(shift).reshape(-1)), x)

    def activated(self, activation: Activation, x: int) -> int:
        """activation(x)."""
        return self.add(Activate(word_of(activation), self.size(x)), x)

    def unit(self, x: int) -> int:
        """x at length 1."""
        return self.add(UnitLength(self.size(x)), x)

    def cut(self, x: int, size: int) -> int:
        """The first `size` numbers of x, which a dense stage just made: its other columns are left out."""
        stage, sources = self._lines[-1]
        assert x == len(self._lines) and isinstance(stage, Dense)
        self._lines[-1] = ProgramLine(Dense(np.ascontiguousarray(stage.weight[:, :size]), stage.bias[:size]), sources)
        self._sizes[-1] = size
        return x

    def until(self, value: int) -> tuple[ProgramLine, ...]:
        """The steps, the last of which makes `value`."""
        assert value == len(self._lines)
        return tuple(self._lines)


def _single(array: Tree) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(array, np.float32))


def word_of(activation: Activation) -> str:
    """The word of `ACTIVATIONS` that an activation is; a UserError names one that is none."""
    if isinstance(activation, str):
        return activation
    name = getattr(activation, "__name__", "")
    if name in ACTIVATIONS and activation in (getattr(jnp, name, None), getattr(jax.nn, name, None)):
        return name
    raise UserError(
        f"export: found the activation {name or activation!r}, a function of your own, expected one of "
        f"{', '.join(ACTIVATIONS)}; no target could say it."
    )


# ---------------------------------------------------------------------- before the network


def _normalize(moments: RunningMoments) -> Normalize:
    size = len(moments.mean)
    kept = np.isin(np.arange(size), moments.kept)
    ones, infinite = np.ones(size, np.float32), np.full(size, np.inf, np.float32)
    return Normalize(
        mean=np.where(kept, 0, _single(moments.mean)).astype(np.float32),
        deviation=np.where(kept, ones, _single(moments.deviation)).astype(np.float32),
        limit=np.where(kept, infinite, 10 * ones),
    )


# ---------------------------------------------------------------------- networks


@functools.singledispatch
def network_lines(net: AbstractNet, draft: Draft, x: int) -> int:
    """The value that a network makes of value x, its stages in the draft; any network that says what dense layers it is
    has some, others register how."""
    layers = dense(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), net))
    if layers is None:
        raise UserError(
            f"export: found a network of class {type(net).__name__}, which nobody said how to write in stages; "
            "register `approx.dense.dense` or `export.making.network_lines` for it."
        )
    for layer in layers.layers:
        x = draft.dense(layer.weight, layer.bias, x)
        if layer.gain is not None:
            x = draft.normed(layer.gain, layer.shift, x)
        x = draft.activated(layers.activation, x)
    return draft.dense(layers.last.weight, layers.last.bias, x)


@network_lines.register
def _(net: ResidualMlp, draft: Draft, x: int) -> int:
    def layer(number: int, x: int) -> int:
        return draft.dense(net.weights[number], net.biases[number], x)

    *blocks, last = zip(net.gains, net.shifts, strict=True)
    x = layer(0, x)
    ones = np.ones(draft.size(x), np.float32)
    for block, norm in enumerate(blocks):
        wide = draft.activated(net.activation, layer(2 * block + 1, draft.normed(*norm, x)))
        x = draft.add(Blend(ones, ones), x, layer(2 * block + 2, wide))
    return layer(-1, draft.normed(*last, x))


@network_lines.register
def _(net: HypersphericalMlp, draft: Draft, x: int) -> int:
    def scaled(weight: Tree, scale: Tree, x: int) -> int:
        """s ∘ x W, as one layer: each unit's weights times its scale."""
        return draft.dense(np.asarray(weight, float) * np.asarray(scale, float), np.zeros(weight.shape[-1]), x)

    embed, *inner, first, last = net.weights
    scale, *scales, last_scale = net.scales
    x = draft.unit(draft.add(Append(SHIFT, draft.size(x) + 1), x))
    x = draft.unit(scaled(embed, scale, x))
    pairs = zip(inner[::2], inner[1::2], strict=True)
    for (up, down), scale, share in zip(pairs, scales, net.shares, strict=True):
        wide = draft.activated(net.activation, scaled(up, scale, x))
        alpha = np.asarray(share, float).reshape(-1) * (share.shape[-1] ** 0.5 / (len(net.shares) + 1))
        towards = draft.unit(scaled(down, np.ones(down.shape[-1]), wide))
        x = draft.unit(draft.add(Blend(_single(1 - alpha), _single(alpha)), x, towards))
    # Nothing stands between the last two layers: they are one.
    return draft.dense(np.asarray(first, float) * np.asarray(last_scale, float) @ np.asarray(last, float), net.bias, x)


@network_lines.register
def _(net: EmbeddedMlp, draft: Draft, x: int) -> int:
    def averaged(x: int) -> int:
        return draft.add(AverageL1(draft.size(x)), x)

    def joined(x: int, y: int) -> int:
        return draft.add(Join(draft.size(x), draft.size(x) + draft.size(y)), x, y)

    encoder = net.encoder
    if not isinstance(encoder, StateActionEncoder) or draft.size(x) != encoder.obs_size:
        raise UserError("export: found a network on embeddings of (s, a), or of an encoder of your own.")
    embedded = averaged(network_lines(encoder.of_state, draft, x))
    return network_lines(net.rest, draft, joined(averaged(network_lines(net.first, draft, x)), embedded))


# ---------------------------------------------------------------------- policies


@functools.singledispatch
def policy_lines(policy: AbstractPolicy, draft: Draft, seen: int) -> int:
    """The value that is the policy's mode at the normalized state `seen`."""
    del draft, seen
    raise UserError(
        f"export: found a policy of class {type(policy).__name__}, which nobody said how to write in stages; register "
        "`export.making.policy_lines` for it."
    )


@policy_lines.register(DeterministicPolicy)
@policy_lines.register(TanhGaussianPolicy)
@policy_lines.register(ClippedGaussianPolicy)
def _(policy: Tree, draft: Draft, seen: int) -> int:
    """Π_A(s)(center + half_width · tanh(net(s))), of a Gaussian the mean."""
    action_set = policy.action_set
    mean = draft.cut(network_lines(policy.net, draft, seen), action_set.size)
    return admissible_lines(action_set, draft, draft.activated("tanh", mean), seen)


# ---------------------------------------------------------------------- sets of actions


@functools.singledispatch
def admissible_lines(action_set: AbstractActionSet, draft: Draft, unit: int, seen: int) -> int:
    """The value Π_A(s)(center + half_width · u)."""
    affine = Affine(_single(action_set.center), _single(action_set.half_width))
    return projection_lines(action_set, draft, draft.add(affine, unit), seen)


@admissible_lines.register
def _(action_set: Increments, draft: Draft, unit: int, seen: int) -> int:
    return draft.add(stretch_of(action_set), unit, seen)


@functools.singledispatch
def projection_lines(action_set: AbstractActionSet, draft: Draft, action: int, seen: int) -> int:
    """The value Π_A(s)(a); that of a value which such a stage made is itself."""
    del draft, action, seen
    raise UserError(
        f"export: found a {type(action_set).__name__} of actions, onto which no exported controller can project; give "
        "limits in numbers (a Box, Limits, whole numbers in a box)."
    )


@projection_lines.register
def _(action_set: Box, draft: Draft, action: int, seen: int) -> int:
    del seen
    low, high = inwards(np.asarray(action_set.low), np.asarray(action_set.high), np.float32)
    return draft.add(Clip(np.asarray(low), np.asarray(high)), action)


@projection_lines.register
def _(action_set: Increments, draft: Draft, action: int, seen: int) -> int:
    del action_set, draft, seen
    return action  # `Stretch` ends in it


@projection_lines.register
def _(action_set: Polytope, draft: Draft, action: int, seen: int) -> int:
    del seen
    return draft.add(nearest_of(action_set), action)


@projection_lines.register
def _(action_set: Mixed, draft: Draft, action: int, seen: int) -> int:
    if not isinstance(action_set.inner, Box):
        return projection_lines.dispatch(AbstractActionSet)(action_set, draft, action, seen)
    (low,), (high,) = action_set.bounds(np.zeros((1, 1)), np.float32)
    return draft.add(RoundWhole(np.isin(np.arange(len(low)), action_set.integer), low, high), action)


def stretch_of(action_set: Increments) -> Stretch:
    """What a rate and the limits of the action itself let it change by."""
    limits, first = action_set.limits, action_set.columns[0]
    return Stretch(
        rate=_single(action_set.high),
        least=_single(limits.low),
        most=_single(limits.high),
        center=_single(limits.center),
        half_width=_single(limits.half_width),
        first=first,
    )


def nearest_of(action_set: Polytope) -> NearestPoint:
    """The projection onto a polytope, its numbers as `Polytope.project` has them in single precision."""
    return NearestPoint(
        matrix=np.asarray(action_set.matrix),
        limits=np.asarray(action_set.bound),
        floor=np.asarray(action_set.low),
        ceiling=np.asarray(action_set.high),
        center=np.asarray(action_set.center),
        units=action_set.in_units(np.float32),
    )


def _edges(action_set: AbstractActionSet) -> Edges | None:
    """As `acting.status.held_back` has them; None where nothing but a constant box limits actions."""
    near = HELD_BACK * np.asarray(action_set.half_width)
    if isinstance(action_set, Increments):
        return Edges(np.zeros((0, action_set.size)), np.zeros(0), near, stretch_of(action_set))
    region = None if action_set.reads_obs else action_set.region(np.zeros((1, 1)))
    if region is None or not len(region.matrix):
        return None
    return Edges(region.matrix, region.bound - np.abs(region.matrix) @ near, near, None)
