"""Sound linear upper bounds of a critic over boxes of actions, batched over boxes, in NumPy and float64.

A state is folded into the first layer, so a network is a function of the few action coordinates alone. Over a box, with
ε ∈ [−1, 1]^m its coordinates, every pre-activation is enclosed going forward, z ∈ A ε + c ± e, and the output is then
bounded going backward through the activations' linear bounds (CROWN): what cancels between neurons cancels.
Source: Zhang et al. 2018 (CROWN); Singh et al. 2018 (parallel bounds of each neuron); Xu et al. 2021 (slopes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float, Int

from fittedq.approx.dense import DenseNet, Layer, Matrix, Terms, Vector, dense
from fittedq.approx.networks import QNetwork
from fittedq.errors import UserError
from fittedq.maximize.proofs.readings import Line, MeanOutput, Outputs, Reading, reading
from fittedq.maximize.proofs.relax import Band, Relaxation, relaxation

LAYER_NORM_EPSILON = 1e-5
SAFETY = 64
"""Passes over the network that make one bound (merging of linear neurons, enclosure, centre, backward, concretization),
with magnitudes within a factor of eight of the network's own: the bound's rounding is at most this many times one
evaluation's."""
ELEMENTARY_ULPS = 32
"""Units of rounding allowed to one elementary function and the operations around it (tanh, exp, sqrt)."""
SLOPE_STEPS, SLOPE_DECAY = 2, 0.8
"""Steps that improve the lines below piecewise linear activations, and how much smaller each is than the one before."""
SLOPE_ACTIONS, SLOPE_WIDTH = 5, 96
"""Action dimensions from which, and widths up to which, those steps are worth their time: boxes multiply with the
dimensions, a step's cost grows with the width."""


class Network(NamedTuple):
    """One critic as float64 arrays, over [obs, action] in the environment's units; `reading` makes q of the outputs.

    `unit` is the rounding unit of the arithmetic the critic itself is evaluated in.
    """

    layers: tuple[Layer, ...]
    last: Layer
    activation: Relaxation
    unit: float
    center: Vector
    half_width: Vector
    reading: Reading


def members_of(critic: object, obs_size: int, action_size: int, activation: str) -> tuple[Network, ...]:
    """The members of a `QNetwork`, or the one network that a list of (weight [in, out], bias [out]) describes."""
    if isinstance(critic, QNetwork):
        return _members(critic, obs_size)
    if not isinstance(critic, Sequence) or not critic:
        raise UserError(
            f"certified maximum: found a critic of type {type(critic).__name__}, expected a neural one (QNetwork) or a "
            "list of (weight, bias) arrays; for trees use TreeSweep, for quadratic critics QuadraticArgmax."
        )
    layers, width = [], obs_size + action_size
    for number, pair in enumerate(critic):
        weight, bias = (np.asarray(array) for array in pair)
        last = number == len(critic) - 1
        if weight.ndim != 2 or weight.shape[0] != width or bias.size != weight.shape[1] or (last and bias.size != 1):
            raise UserError(
                f"certified maximum: layer {number} has a weight of shape {weight.shape} and a bias of shape "
                f"{bias.shape}, expected ({width}, {1 if last else 'width'}) and as many biases as columns."
            )
        width = weight.shape[1]
        layers.append(Layer(weight.astype(float), bias.astype(float).reshape(-1)))
    single = any(np.asarray(array).dtype.itemsize < 8 for pair in critic for array in pair)
    network = Network(
        tuple(layers[:-1]),
        layers[-1],
        relaxation(activation),
        2.0**-24 if single else 2.0**-53,
        np.zeros(action_size),
        np.ones(action_size),
        MeanOutput(),
    )
    return (_finite(network),)


def unproven(critic: QNetwork) -> str | None:
    """Why nothing is proven of this kind of critic, or None. It reads shapes only."""
    if dense_of(critic) is None or reading(critic.head) is None:
        return (
            f"found a critic on {type(critic.net).__name__} with the head {type(critic.head).__name__}, of which no "
            "sound bound is known; expected dense layers (Mlp, BatchNormMlp) and OneValue, Quantiles or Categorical"
        )
    return None


def dense_of(critic: QNetwork) -> DenseNet | None:
    """The first member with zeros for weights: what it is made of."""
    return dense(jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:]), critic.net))


def _members(critic: QNetwork, obs_size: int) -> tuple[Network, ...]:
    if why := unproven(critic):
        raise UserError(f"certified maximum: {why}; a local maximizer (ProjectedAscent) gives values without a proof.")
    box, head = critic.action_set, reading(critic.head)
    assert head is not None
    unit = float(np.finfo(jax.tree.leaves(critic.net)[0].dtype).eps) / 2
    members = []
    for member in range(critic.size):
        net = dense(jax.tree.map(lambda leaf, member=member: np.asarray(leaf[member], float), critic.net))
        assert net is not None
        first = (*net.layers, net.last)[0].weight
        if first.shape[0] != obs_size + box.size:
            raise UserError(
                f"certified maximum: found observations of {obs_size} numbers, expected {first.shape[0] - box.size}, "
                "those of the critic."
            )
        sides = np.asarray(box.center), np.asarray(box.half_width)
        network = Network(net.layers, head.folded(net.last), relaxation(net.activation), unit, *sides, head)
        members.append(_finite(network))
    return tuple(members)


def _finite(network: Network) -> Network:
    for number, layer in enumerate((*network.layers, network.last)):
        if not all(np.isfinite(array).all() for array in layer[:4] if array is not None):
            raise UserError(f"certified maximum: layer {number} of the critic has a weight that is not finite.")
    return network


class Norm(NamedTuple):
    """Layer norm on a box: gain · z / σ + shift ∈ scale · z + tilted · (tilt · δ) + shift ± error, within [low, high].

    1/σ is linear in δ = a − center up to second order, so the bound is too.
    """

    scale: Float[np.ndarray, "b n"]
    tilted: Float[np.ndarray, "b n"]
    tilt: Float[np.ndarray, "b m"]
    error: Float[np.ndarray, "b n"]
    shift: Float[np.ndarray, "n"]
    low: Float[np.ndarray, "b n"]
    high: Float[np.ndarray, "b n"]


class Enclosure(NamedTuple):
    """One hidden layer over b boxes: z ∈ middle + slope · δ ± error, within middle ± spread, |δ| ≤ radius.

    `slope` is None for the first layer, where it is the weight; `size` is its absolute value. `band` holds lines around
    the activation on that range, or on the range of `norm` where there is one.
    """

    radius: Float[np.ndarray, "b m"]
    slope: Float[np.ndarray, "b m n"] | None
    size: Float[np.ndarray, "b m n"] | None
    middle: Float[np.ndarray, "b n"]
    error: Float[np.ndarray, "b n"] | None
    spread: Float[np.ndarray, "b n"]
    band: Band
    norm: Norm | None = None

    @property
    def range(self) -> tuple[Float[np.ndarray, "b n"], Float[np.ndarray, "b n"]]:
        """(least, greatest) of what the activation is given."""
        if self.norm is not None:
            return self.norm.low, self.norm.high
        return self.middle - self.spread, self.middle + self.spread


def _norm(layer: Layer, slope: np.ndarray, middle: np.ndarray, radius: np.ndarray, spread: np.ndarray) -> Norm:
    """The norm's linear form: with v = mean z² + 1e-5, 1/σ = v^-1/2 is convex, so a chord and its parallel bound it."""
    assert layer.gain is not None and layer.shift is not None
    outer, inner = np.abs(middle) + spread, np.maximum(np.abs(middle) - spread, 0)
    # v = mean middle² + variation · δ + rest, and the rest is of second order.
    variation = 2 * np.einsum("bmn,bn->bm", slope, middle) / middle.shape[1]
    v = (middle**2).mean(axis=1) + LAYER_NORM_EPSILON
    loose = spread - _reach(np.abs(slope), radius)
    linear = _dot(np.abs(variation), radius)
    rest_high = (spread**2).mean(axis=1) + 2 * _dot(np.abs(middle), loose) / middle.shape[1]
    rest_low = -2 * _dot(np.abs(middle), loose) / middle.shape[1]
    v_low = np.maximum((inner**2).mean(axis=1) + LAYER_NORM_EPSILON, v - linear + rest_low)
    v_high = np.minimum((outer**2).mean(axis=1) + LAYER_NORM_EPSILON, v + linear + rest_high)
    # Rounding of the sums above is relative to v_high, and far below this.
    v_low = np.maximum(v_low - 1e-12 * v_high, LAYER_NORM_EPSILON)
    v_high = np.maximum(v_high * (1 + 1e-12), v_low)
    t_low, t_high = v_high**-0.5, v_low**-0.5
    chord = -t_low * t_high * t_low * t_high / (t_low + t_high)
    # t − chord · v is greatest at both ends and least where t' = chord: v* = (−2 chord)^(−2/3).
    touching = np.clip((-2 * chord) ** (-2 / 3), v_low, v_high)
    top = np.maximum(t_high - chord * v_low, t_low - chord * v_high)
    bottom = np.minimum(touching**-0.5 - chord * touching, top)
    at_middle = chord * (v + (rest_high + rest_low) / 2) + (top + bottom) / 2
    t_error = np.abs(chord) * (rest_high - rest_low) / 2 + (top - bottom) / 2 + 1e-12 * t_high
    tilt = chord[:, None] * variation
    tilt_reach = _dot(np.abs(tilt), radius)
    t_change = np.minimum(tilt_reach + t_error, np.maximum(t_high - at_middle, at_middle - t_low))
    size = np.abs(layer.gain)
    norm_error = size * (np.abs(middle) * t_error[:, None] + spread * t_change[:, None])
    z_low, z_high = middle - spread, middle + spread
    ends = np.stack(
        [z_low * t_low[:, None], z_low * t_high[:, None], z_high * t_low[:, None], z_high * t_high[:, None]]
    )
    reach = np.sqrt(float(layer.gain.size)) * (1 + 1e-12)
    least, greatest = np.clip(ends.min(axis=0), -reach, reach), np.clip(ends.max(axis=0), -reach, reach)
    room = 1e-12 * (size * np.maximum(np.abs(least), np.abs(greatest)) + np.abs(layer.shift))
    y_low = np.minimum(layer.gain * least, layer.gain * greatest) + layer.shift - room
    y_high = np.maximum(layer.gain * least, layer.gain * greatest) + layer.shift + room
    scale, tilted = layer.gain * at_middle[:, None], layer.gain * middle
    # The affine form is often the narrower one on small boxes.
    reach_of_form = np.abs(scale) * spread + np.abs(tilted) * tilt_reach[:, None] + norm_error
    form_middle = scale * middle + layer.shift
    y_low = np.maximum(y_low, form_middle - reach_of_form - room)
    y_high = np.maximum(y_low, np.minimum(y_high, form_middle + reach_of_form + room))
    return Norm(scale, tilted, tilt, norm_error + room, layer.shift, y_low, y_high)


class Upper(NamedTuple):
    """q(a) ≤ constant + slope · ε on the box; `benefit` estimates what halving each side would gain."""

    constant: Float[np.ndarray, "b"]
    slope: Float[np.ndarray, "b m"]
    benefit: Float[np.ndarray, "b m"]

    @property
    def bound(self) -> Float[np.ndarray, "b"]:
        """The greatest value over the box."""
        return self.constant + np.abs(self.slope).sum(axis=-1)


class Piece(NamedTuple):
    """A network of the action alone, but for its first bias; `absolute` are the sizes of the weights, the last too."""

    layers: tuple[Layer, ...]
    last: Layer
    absolute: tuple[Matrix, ...]

    def at(self, number: int) -> Layer:
        """Layer `number`, the last one after the hidden ones."""
        return self.layers[number] if number < len(self.layers) else self.last


class PieceAtState(NamedTuple):
    """A piece at one state: its first bias, and the rounding of each layer and of the bound."""

    piece: Piece
    offset: Vector
    margins: Vector
    own: float


class BoxRuns:
    """Boxes in a row, run after run, each run under a network of its own: products run by run, all else at once.

    Narrower networks are filled with neurons that are nothing and lead nowhere.
    """

    def __init__(
        self,
        activation: Relaxation,
        reading: Reading,
        pieces: Sequence[Piece],
        counts: Sequence[int],
        offset: Float[np.ndarray, "b n"],
        margins: Float[np.ndarray, "b l"],
        own: Float[np.ndarray, "b"],
    ):
        self.activation, self.reading = activation, reading
        self.offset, self.margins, self.own = offset, margins, own
        ends = np.cumsum(counts)
        self.runs = [
            (piece, int(end - count), int(end)) for piece, count, end in zip(pieces, counts, ends, strict=True)
        ]
        self.depth = len(pieces[0].layers)
        self.widths = [max(piece.at(number).weight.shape[1] for piece in pieces) for number in range(self.depth + 1)]

    @staticmethod
    def of(activation: Relaxation, reading: Reading, locals_: Sequence[PieceAtState], counts: Sequence[int]) -> BoxRuns:
        """Runs of `counts` boxes; neighbours under the same weights are one."""
        width = max(len(local.offset) for local in locals_)
        offset = np.zeros((len(locals_), width))
        for row, local in zip(offset, locals_, strict=True):
            row[: len(local.offset)] = local.offset
        pieces, lengths = [], []
        for local, count in zip(locals_, counts, strict=True):
            if pieces and pieces[-1] is local.piece:
                lengths[-1] += count
            else:
                pieces.append(local.piece)
                lengths.append(count)
        margins, own = np.stack([local.margins for local in locals_]), np.array([local.own for local in locals_])
        repeated = (np.repeat(array, counts, axis=0) for array in (offset, margins, own))
        return BoxRuns(activation, reading, pieces, lengths, *repeated)

    def product(self, x: np.ndarray, number: int, absolute: bool = False) -> np.ndarray:
        """x · weight of layer `number` along the last axis."""
        rows, n = int(np.prod(x.shape[1:-1])), x.shape[-1]
        flat, out = x.reshape(len(x) * rows, n), np.empty((len(x) * rows, self.widths[number]))
        for piece, start, end in self.runs:
            weight = piece.absolute[number] if absolute else piece.at(number).weight
            part = slice(start * rows, end * rows)
            np.matmul(flat[part, : weight.shape[0]], weight, out=out[part, : weight.shape[1]])
            out[part, weight.shape[1] :] = 0
        return out.reshape(*x.shape[:-1], self.widths[number])

    def product_back(
        self, x: Float[np.ndarray, "b n"], number: int, absolute: bool = False
    ) -> Float[np.ndarray, "b k"]:
        """x · weightᵀ of layer `number`."""
        width = self.widths[number - 1] if number else self.runs[0][0].layers[0].weight.shape[0]
        out = np.empty((len(x), width))
        for piece, start, end in self.runs:
            weight = piece.absolute[number] if absolute else piece.at(number).weight
            np.matmul(x[start:end, : weight.shape[1]], weight.T, out=out[start:end, : weight.shape[0]])
            out[start:end, weight.shape[0] :] = 0
        return out

    def bias(self, number: int) -> Float[np.ndarray, "b n"]:
        """The bias of layer `number`, box by box."""
        if len(self.runs) == 1:
            return self.runs[0][0].at(number).bias[None]
        out = np.zeros((len(self.own), self.widths[number]))
        for piece, start, end in self.runs:
            bias = piece.at(number).bias
            out[start:end, : len(bias)] = bias
        return out

    def values(self, action: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b"]:
        """q, but for rounding."""
        h = action
        for number, layer in enumerate(self.runs[0][0].layers):
            z = self.product(h, number) + (self.offset if number == 0 else self.bias(number))
            h = self.activation.value(_normalized(layer, z)[0])
        return self.reading.value(self.product(h, self.depth) + self.bias(self.depth))

    def enclose(self, center: Float[np.ndarray, "b m"], radius: Float[np.ndarray, "b m"]) -> list[Enclosure]:
        """Every hidden layer over the boxes center ± radius, from the first to the last."""
        layers: list[Enclosure] = []
        for number, layer in enumerate(self.runs[0][0].layers):
            margin = self.margins[:, number, None]
            if number == 0:
                middle = self.product(center, 0) + self.offset
                slope = size = error = None
                spread = self.product(radius, 0, absolute=True) + margin
            else:
                inner, inner_error = self.activated(layers[-1])
                form = self.product(inner, number)
                slope, middle = form[:, :-1], form[:, -1] + self.bias(number)
                size, error = np.abs(slope), self.product(inner_error, number, absolute=True)
                spread = _reach(size, radius) + margin + error
            if layer.gain is None:
                norm, band = None, self.activation.band(middle - spread, middle + spread)
            else:
                norm = _norm(layer, self.first_slope() if slope is None else slope, middle, radius, spread)
                band = self.activation.band(norm.low, norm.high)
            layers.append(Enclosure(radius, slope, size, middle, error, spread, band, norm))
        return layers

    def outputs(self, layers: list[Enclosure]) -> Outputs:
        """The outputs over the boxes of `layers`."""
        inner, inner_error = self.activated(layers[-1])
        form, error = self.product(inner, self.depth), self.product(inner_error, self.depth, absolute=True)
        middle = form[:, -1] + self.bias(self.depth)
        return Outputs(layers[0].radius, form[:, :-1], middle, error + self.margins[:, -1, None])

    def line(self, layers: list[Enclosure]) -> Line:
        """A line above q as a function of the outputs."""
        return self.reading.above(len(self.own), None if self.reading.linear else self.outputs(layers))

    def first_slope(self) -> Float[np.ndarray, "b m n"]:
        """The first layer's weight, box by box."""
        out = np.zeros((len(self.own), self.runs[0][0].layers[0].weight.shape[0], self.widths[0]))
        for piece, start, end in self.runs:
            weight = piece.layers[0].weight
            out[start:end, :, : weight.shape[1]] = weight
        return out

    def activated(self, layer: Enclosure) -> tuple[np.ndarray, np.ndarray]:
        """f(z), or f(norm(z)): the slope and, as one more row, the middle [b,m+1,n]; and the error [b,n]."""
        factor, offset, loss = layer.band.slope, layer.band.offset, layer.band.error
        (b, n), m = layer.middle.shape, layer.radius.shape[1]
        form = np.empty((b, m + 1, n))
        error = 0.0 if layer.error is None else layer.error
        norm = layer.norm
        scale = factor if norm is None else factor * norm.scale
        if layer.slope is None:
            for piece, start, end in self.runs:
                weight = piece.layers[0].weight
                width = weight.shape[1]
                np.multiply(weight, scale[start:end, None, :width], out=form[start:end, :m, :width])
                form[start:end, :m, width:] = 0
        else:
            np.multiply(layer.slope, scale[:, None], out=form[:, :m])
        np.add(layer.middle * scale, offset, out=form[:, m])
        if norm is None:
            return form, np.abs(scale) * error + loss
        form[:, :m] += (factor * norm.tilted)[:, None] * norm.tilt[:, :, None]
        form[:, m] += factor * norm.shift
        return form, np.abs(scale) * error + np.abs(factor) * norm.error + loss

    def upper(self, layers: list[Enclosure], slope_steps: int | None = None) -> Upper:
        """A linear function on each box that is nowhere below q, by going backward through what `enclose` gave.

        Of a piecewise linear activation any line through 0 between its two pieces is below it. The slopes of these
        lines begin at the nearer piece's and follow the bound's subgradient for `slope_steps`: where the bound is
        greatest, a neuron whose argument is positive wants a steeper line, one whose argument is negative a flatter
        one. The least bound that was met counts. Source: Xu et al. 2021, with a step of our own.
        """
        if slope_steps is None:
            worth_it = layers[0].radius.shape[1] >= SLOPE_ACTIONS and max(self.widths[:-1]) <= SLOPE_WIDTH
            slope_steps = SLOPE_STEPS if worth_it else 0
        below, line = [self.activation.slope_below(layer.band) for layer in layers], self.line(layers)
        upper, incoming = self.backward(layers, below, line)
        least = upper
        if self.activation.kink is not None and slope_steps:
            rates = [_per_half_range(*layer.range) for layer in layers]
            for step in range(slope_steps):
                arguments = self.at_greatest(layers, below, incoming, upper)
                below = [
                    np.clip(slope + SLOPE_DECAY**step * rate * argument, self.activation.kink, 1)
                    for slope, rate, argument in zip(below, rates, arguments, strict=True)
                ]
                upper, incoming = self.backward(layers, below, line)
                least = _least(least, upper)
        ceiling = Upper(line.ceiling + self.own, np.zeros_like(least.slope), least.benefit)
        return _least(least, ceiling)._replace(benefit=self.benefit(layers, incoming, line))

    def backward(self, layers: list[Enclosure], below: list[np.ndarray], line: Line) -> tuple[Upper, list[np.ndarray]]:
        """(a linear upper bound with the slopes `below` under the activations, the weight of each layer's f(z))."""
        weight = self.product_back(line.slope, self.depth)
        constant = line.constant + _dot(line.slope, self.bias(self.depth)) + self.own
        slope = np.zeros(())
        incoming = []
        for number in range(len(layers) - 1, -1, -1):
            layer = layers[number]
            incoming.append(weight)
            constant += _dot(weight, layer.band.offset) + _dot(np.abs(weight), layer.band.error)
            # Sums of both signs rather than `where`: no branch to mispredict.
            positive = np.maximum(weight, 0)
            weight = positive * layer.band.slope + (weight - positive) * below[number]
            if layer.norm is not None:
                norm = layer.norm
                constant += weight @ norm.shift + _dot(np.abs(weight), norm.error)
                slope = slope + _dot(weight, norm.tilted)[:, None] * norm.tilt
                weight = weight * norm.scale
            if number == 0:
                constant += _dot(weight, layer.middle)
                slope = slope + self.product_back(weight, 0)
            else:
                constant += _dot(weight, self.bias(number))
                weight = self.product_back(weight, number)
        return Upper(constant, slope * layers[0].radius, np.zeros_like(layers[0].radius)), incoming[::-1]

    def at_greatest(
        self, layers: list[Enclosure], below: list[np.ndarray], incoming: list[np.ndarray], upper: Upper
    ) -> list[np.ndarray]:
        """The argument of each activation where `upper` is greatest, by the lines that make it."""
        delta = np.sign(upper.slope) * layers[0].radius
        z, arguments = layers[0].middle + self.product(delta, 0), []
        for number, (layer, slope, weight) in enumerate(zip(layers, below, incoming, strict=True)):
            if layer.norm is not None:
                norm = layer.norm
                z = norm.scale * z + norm.tilted * _dot(norm.tilt, delta)[:, None] + norm.shift
            arguments.append(z)
            if number + 1 < len(layers):
                band = layer.band
                lines = np.where(weight > 0, band.slope * z + (band.offset + band.error), slope * z)
                z = self.product(lines, number + 1) + self.bias(number + 1)
        return arguments

    def benefit(self, layers: list[Enclosure], incoming: list[np.ndarray], line: Line) -> Float[np.ndarray, "b m"]:
        """What halving each side promises: the error of each neuron's lines, by that side's share of its spread."""
        benefit = line.benefit
        for layer, weight in zip(layers, incoming, strict=True):
            loss = np.abs(weight) * layer.band.error
            if layer.norm is not None:
                loss = loss + np.abs(weight) * np.abs(layer.band.slope) * layer.norm.error
            share = loss / np.maximum(layer.spread, np.finfo(float).tiny)
            if layer.size is None:
                benefit = benefit + self.product_back(share, 0, absolute=True)
            else:
                benefit = benefit + (layer.size @ share[:, :, None])[..., 0]
        return benefit * layers[0].radius


class FoldedNetwork:
    """`network` at S given states: a function of the action alone, with its rounding over the box of all actions."""

    def __init__(
        self,
        network: Network,
        obs: Float[np.ndarray, "S s"],
        low: Float[np.ndarray, "S m"],
        high: Float[np.ndarray, "S m"],
    ):
        self.activation, self.reading, self.network = network.activation, network.reading, network
        first, size = network.layers[0], obs.shape[1]
        by_action = first.weight[size:] / network.half_width[:, None]
        self.offset = obs @ first.weight[:size] + first.bias - network.center @ by_action
        layers = (first._replace(weight=by_action), *network.layers[1:])
        if first.gain is not None:
            # Subtracting the mean is linear: it goes into the weights, and layer norm is left with one division.
            self.offset = self.offset - self.offset.mean(axis=1, keepdims=True)
            layers = tuple(_centered(layer) for layer in layers)
        self.piece = _piece(layers, network.last)
        self.terms = [
            layer.terms or Terms(np.abs(layer.weight), np.abs(layer.bias), 0)
            for layer in (*network.layers, network.last)
        ]
        action_size = (np.maximum(np.abs(low), np.abs(high)) + np.abs(network.center)) / network.half_width
        self.size = np.abs(np.concatenate([obs, action_size], axis=1))
        self.scaled = np.arange(self.size.shape[1]) >= size
        self.margins, self.own = self._margins((low + high) / 2, (high - low) / 2)

    def runs(self, state: Int[np.ndarray, "b"]) -> BoxRuns:
        """The whole network over boxes of the states given."""
        rows = self.offset[state], self.margins[state], self.own[state]
        return BoxRuns(self.activation, self.reading, (self.piece,), (len(state),), *rows)

    def upper(
        self,
        state: Int[np.ndarray, "b"],
        center: Float[np.ndarray, "b m"],
        radius: Float[np.ndarray, "b m"],
        slope_steps: int | None = None,
    ) -> Upper:
        """A linear function on each box that is nowhere below q, evaluated in real arithmetic."""
        runs = self.runs(state)
        return runs.upper(runs.enclose(center, radius), slope_steps)

    def local(self, state: int, layers: list[Enclosure], row: int, reach: Float[np.ndarray, "m"]) -> PieceAtState:
        """The network on box `row` of `layers`, |a| ≤ reach there, without the neurons that are linear on it.

        Neurons whose activation is linear on the box are one linear map from the layer before to the layer after. It
        is factored through the smaller of the two: as neurons shifted until they are positive, so that what remains is
        again a network. Those that are zero go.
        """
        whole = PieceAtState(self.piece, self.offset[state], self.margins[state], float(self.own[state]))
        kink = self.activation.kink
        if kink is None or self.piece.layers[0].gain is not None:
            return whole
        weights = [layer.weight for layer in (*self.piece.layers, self.piece.last)]
        biases = [self.offset[state], *(layer.bias for layer in (*self.piece.layers[1:], self.piece.last))]
        for number in range(len(layers) - 1, -1, -1):
            low = layers[number].middle[row] - layers[number].spread[row]
            high = layers[number].middle[row] + layers[number].spread[row]
            kinked = (low < 0) & (high > 0)
            factor = np.where(low >= 0, 1.0, kink)
            linear = ~kinked & (factor != 0)
            into, out, bias = weights[number], weights[number + 1], biases[number]
            if np.count_nonzero(linear) <= min(into.shape[0], out.shape[1]):
                kept = kinked | linear
                weights[number], biases[number], weights[number + 1] = into[:, kept], bias[kept], out[kept]
                continue
            rows = out[linear] * factor[linear, None]
            through = into[:, linear] @ rows
            before, after = (
                (np.eye(len(through)), through)
                if through.shape[0] < through.shape[1]
                else (through, np.eye(through.shape[1]))
            )
            shift = 2 * (self._greatest(layers, row, number, reach) @ np.abs(before))
            weights[number] = np.concatenate([into[:, kinked], before], axis=1)
            biases[number] = np.concatenate([bias[kinked], shift])
            weights[number + 1] = np.concatenate([out[kinked], after])
            biases[number + 1] = biases[number + 1] + bias[linear] @ rows - shift @ after
        # Layer 0's bias is the state's.
        local_layers = tuple(Layer(weight, bias) for weight, bias in zip(weights[:-1], biases[:-1], strict=True))
        piece = _piece(local_layers, Layer(weights[-1], biases[-1]))
        return PieceAtState(piece, biases[0], whole.margins, whole.own)

    def _greatest(
        self, layers: list[Enclosure], row: int, number: int, reach: Float[np.ndarray, "m"]
    ) -> Float[np.ndarray, "_"]:
        """The greatest |x| of the inputs x of layer `number`."""
        if number == 0:
            return reach
        middle, spread = layers[number - 1].middle[row], layers[number - 1].spread[row]
        least, greatest = self.activation.range(middle - spread, middle + spread)
        return np.maximum(np.abs(least), np.abs(greatest))

    def _margins(self, middle: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rounding of what this module computes, per state: of each layer's z [S,l], and of the bound [S].

        Ranges over the box of all actions are those of interval arithmetic, widened by the margins themselves.
        """
        unit, size, error, margins = 2.0**-53, self.size, 4 * 2.0**-53 * self.size * self.scaled, []
        for number, layer in enumerate(self.piece.layers):
            error = self._product_error(number, size, error, unit)
            middle = middle @ layer.weight + (self.offset if number == 0 else layer.bias)
            radius = radius @ self.piece.absolute[number]
            margins.append(SAFETY * error.max(axis=1))
            radius = radius + margins[-1][:, None]
            if layer.gain is not None:
                middle, radius, error = _normed(layer, middle, radius, error, unit)
            low, high = middle - radius, middle + radius
            size, error = _activated(self.activation, low, high, error, unit)
            least, greatest = self.activation.range(low, high)
            middle, radius = (least + greatest) / 2, (greatest - least) / 2
        error, size = self._product_error(len(margins), size, error, unit), self._size(len(margins), size)
        margins.append(SAFETY * error.max(axis=1))
        return np.stack(margins, axis=1), SAFETY * self.reading.rounding(error, size, unit)

    def rounding(self, state: Int[np.ndarray, "b"], layers: list[Enclosure]) -> Float[np.ndarray, "b"]:
        """How far the critic's own arithmetic may be from q on the enclosed boxes.

        A sum of n products in arithmetic of unit u errs by at most γ_n Σ|x_i w_i|, γ_n = n u / (1 − n u), in any order
        (Higham 2002, section 3.1), and errors e_i of x add Σ e_i |w_i|; activations and norms pass errors on by their
        Lipschitz constants.
        """
        unit, size = self.network.unit, self.size[state]
        error = 4 * unit * size * self.scaled
        for number, (layer, enclosure) in enumerate(zip(self.piece.layers, layers, strict=True)):
            error = self._product_error(number, size, error, unit)
            if enclosure.norm is not None:
                _, _, error = _normed(layer, enclosure.middle, enclosure.spread, error, unit)
            size, error = _activated(self.activation, *enclosure.range, error, unit)
        error, size = self._product_error(len(layers), size, error, unit), self._size(len(layers), size)
        outputs = None if self.reading.linear else self.runs(state).outputs(layers)
        return self.reading.rounding(error, size, unit, outputs)

    def _size(self, number: int, size: np.ndarray) -> np.ndarray:
        """Σ of the sizes of what layer `number` adds up."""
        weight, bias, _ = self.terms[number]
        return size @ weight + bias

    def _product_error(self, number: int, size: np.ndarray, error: np.ndarray, unit: float) -> np.ndarray:
        """|fl(x W + b) − (x W + b)| where |x| ≤ size errs by `error`; the mean that layer norm subtracts included."""
        layer = (*self.network.layers, self.network.last)[number]
        # What is zero adds no rounding: a neuron that is off at every action is no term.
        absolute, bias, more = self.terms[number]
        gamma = _gamma(np.count_nonzero(size + error, axis=1)[:, None] + 4 + more, unit)
        total = (gamma * size + (1 + gamma) * error) @ absolute + gamma * bias
        if layer.gain is None:
            return total
        z_size = size @ absolute + bias
        mean = (total + _gamma(layer.weight.shape[1] + 4, unit) * z_size).mean(axis=1, keepdims=True)
        return total + mean + 2 * unit * (z_size + z_size.mean(axis=1, keepdims=True))

    def values(
        self, state: Int[np.ndarray, "b"], action: Float[np.ndarray, "b m"], gradient: bool = False
    ) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b m"] | None]:
        """q and, where asked, ∂q/∂a (through layer norm with its deviation held fixed), in float64."""
        h, slopes, last = action, [], self.piece.last
        for number, layer in enumerate(self.piece.layers):
            z, scale = _normalized(layer, h @ layer.weight + (self.offset[state] if number == 0 else layer.bias))
            h = self.activation.value(z)
            if gradient:
                slopes.append(self.activation.derivative(z) * scale)
        outputs = h @ last.weight + last.bias
        value = self.reading.value(outputs)
        if not gradient:
            return value, None
        back = (self.reading.gradient(outputs) @ last.weight.T) * slopes[-1]
        for number in range(len(slopes) - 1, 0, -1):
            back = (back @ self.piece.layers[number].weight.T) * slopes[number - 1]
        return value, back @ self.piece.layers[0].weight.T


def _piece(layers: tuple[Layer, ...], last: Layer) -> Piece:
    return Piece(layers, last, tuple(np.abs(layer.weight) for layer in (*layers, last)))


def _normalized(layer: Layer, z: np.ndarray) -> tuple[np.ndarray, Any]:
    """(gain · z / σ + shift, gain / σ) for z already centred; without a norm z itself."""
    if layer.gain is None:
        return z, 1.0
    scale = layer.gain / np.sqrt((z**2).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
    return z * scale + layer.shift, scale


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("bn,bn->b", left, right)


def _reach(size: Float[np.ndarray, "b m n"], radius: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b n"]:
    """Σ_i |slope_i| radius_i: how far a linear form goes from its middle."""
    return (radius[:, None] @ size)[:, 0]


def _per_half_range(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """One over half of [low, high] where 0 lies inside, else 0: lines there are the function itself."""
    return np.divide(2.0, high - low, out=np.zeros_like(low), where=(low < 0) & (high > 0))


def _least(first: Upper, second: Upper) -> Upper:
    """Box by box the one with the lower bound."""
    better = second.bound < first.bound
    return first._replace(
        constant=np.where(better, second.constant, first.constant),
        slope=np.where(better[:, None], second.slope, first.slope),
    )


def _centered(layer: Layer) -> Layer:
    weight = layer.weight - layer.weight.mean(axis=1, keepdims=True)
    return layer._replace(weight=weight, bias=layer.bias - layer.bias.mean())


_Terms = TypeVar("_Terms", float, np.ndarray)


def _gamma(terms: _Terms, unit: float) -> _Terms:
    return terms * unit / (1 - terms * unit)


def _activated(
    activation: Relaxation, low: np.ndarray, high: np.ndarray, error: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """(greatest |f(z)|, the error of f(z)) for z in [low, high] that errs by `error`: a neuron that is off has none."""
    least, greatest = activation.range(low, high)
    size = np.maximum(np.abs(least), np.abs(greatest))
    if activation.kink is not None:
        return size, np.where(high + error <= 0, activation.kink, 1.0) * error + 2 * unit * size
    return size, activation.lipschitz * error + ELEMENTARY_ULPS * unit * (1 + size)


def _normed(
    layer: Layer, middle: np.ndarray, radius: np.ndarray, error: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Range and rounding of gain · z / σ + shift, σ = sqrt(mean z² + 1e-5), z already centred.

    σ errs by at most the root mean square of z's errors and a relative γ; no σ is below sqrt(1e-5).
    """
    assert layer.gain is not None and layer.shift is not None
    least = np.maximum(np.abs(middle) - radius, 0)
    sigma = np.sqrt((least**2).mean(axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
    size = np.minimum((np.abs(middle) + radius) / sigma, np.sqrt(layer.gain.size))
    terms = layer.gain.size + ELEMENTARY_ULPS
    spread = np.sqrt((error**2).mean(axis=-1, keepdims=True))
    sigma_with_error = np.maximum(sigma - spread, np.sqrt(LAYER_NORM_EPSILON) / 2)
    unit_error = (error + size * spread) / sigma_with_error + terms * unit * size
    absolute = np.abs(layer.gain)
    rounded = unit_error * absolute + 4 * unit * (size * absolute + np.abs(layer.shift))
    return np.broadcast_to(layer.shift, middle.shape), size * absolute + rounded, rounded
