"""Sound linear upper bounds of a critic over boxes of actions, batched over boxes, in NumPy and float64.

A state is folded into the first layer, so a network is a function of the few action coordinates alone. Over a box, with
ε ∈ [−1, 1]^m its coordinates, every pre-activation is enclosed going forward, z ∈ A ε + c ± e, and the output is then
bounded going backward through the activations' linear bounds (CROWN): what cancels between neurons cancels.
Source: Zhang et al. 2018 (CROWN); Singh et al. 2018 (parallel bounds of each neuron); Xu et al. 2021 (slopes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from fittedq.approx.host import to_host
from fittedq.approx.networks import QNetwork
from fittedq.errors import UserError
from fittedq.maximize.relax import Band, PiecewiseLinear, Relaxation, relaxation

LAYER_NORM_EPSILON = 1e-5
SAFETY = 16
"""Passes over the network that make one bound (enclosure, centre, backward, concretization), with magnitudes within a
factor of four of the network's own: the bound's rounding is at most this many times one evaluation's."""
ELEMENTARY_ULPS = 32
"""Units of rounding allowed to one elementary function and the operations around it (tanh, exp, sqrt)."""

Vector = Float[np.ndarray, "_"]
Matrix = Float[np.ndarray, "_ _"]


class Layer(NamedTuple):
    """z = x · weight + bias, then, where `gain` is not None, gain · (z − mean z) / sqrt(var z + 1e-5) + shift."""

    weight: Matrix
    bias: Vector
    gain: Vector | None = None
    shift: Vector | None = None


class Network(NamedTuple):
    """One critic as float64 arrays, over [obs, action] in the environment's units; `last` has one output.

    `unit` is the rounding unit of the arithmetic the critic itself is evaluated in.
    """

    layers: tuple[Layer, ...]
    last: Layer
    activation: Relaxation
    unit: float
    center: Vector
    half_width: Vector


def networks(critic: Any, obs_size: int, action_size: int, activation: str) -> tuple[Network, ...]:
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
    )
    return (_finite(network),)


def _members(critic: QNetwork, obs_size: int) -> tuple[Network, ...]:
    net, box = to_host(critic.net), critic.action_set
    if net.weights[0].shape[1] != obs_size + box.size:
        raise UserError(
            f"certified maximum: found observations of {obs_size} numbers, expected "
            f"{net.weights[0].shape[1] - box.size}, those of the critic."
        )
    unit = float(np.finfo(net.weights[0].dtype).eps) / 2
    members = []
    for member in range(critic.size):
        arrays = [
            [np.asarray(leaf[member], float) for leaf in leaves]
            for leaves in (net.weights, net.biases, net.gains, net.shifts)
        ]
        layers = [Layer(weight, bias[0]) for weight, bias in zip(arrays[0], arrays[1], strict=True)]
        for number, (gain, shift) in enumerate(zip(arrays[2], arrays[3], strict=True)):
            layers[number] = layers[number]._replace(gain=gain[0], shift=shift[0])
        members.append(
            _finite(
                Network(
                    tuple(layers[:-1]),
                    layers[-1],
                    relaxation(net.activation),
                    unit,
                    np.asarray(box.center),
                    np.asarray(box.half_width),
                )
            )
        )
    return tuple(members)


def _finite(network: Network) -> Network:
    for number, layer in enumerate((*network.layers, network.last)):
        if not all(np.isfinite(array).all() for array in layer if array is not None):
            raise UserError(f"certified maximum: layer {number} of the critic has a weight that is not finite.")
    return network


class Norm(NamedTuple):
    """Layer norm on a box: gain · z / σ + shift ∈ scale · z + tilted · (tilt · ε) + shift ± error, within [low, high].

    1/σ is linear in ε up to second order, so the bound is too.
    """

    scale: Float[np.ndarray, "b n"]
    tilted: Float[np.ndarray, "b n"]
    tilt: Float[np.ndarray, "b m"]
    error: Float[np.ndarray, "b n"]
    shift: Float[np.ndarray, "n"]
    low: Float[np.ndarray, "b n"]
    high: Float[np.ndarray, "b n"]


class Enclosure(NamedTuple):
    """One hidden layer over b boxes: z ∈ middle + slope · ε ± error, within middle ± spread, ε ∈ [−1, 1]^m.

    `band` holds lines around the activation on that range, or on the range of `norm` where there is one.
    """

    slope: Float[np.ndarray, "b m n"]
    middle: Float[np.ndarray, "b n"]
    error: Float[np.ndarray, "b n"] | None
    spread: Float[np.ndarray, "b n"]
    band: Band
    norm: Norm | None = None

    def activated(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(slope [b,m,n], middle, error) of f(z), or of f(norm(z))."""
        slope, middle, error = self.slope, self.middle, 0.0 if self.error is None else self.error
        factor, offset, loss = self.band.slope, self.band.offset, self.band.error
        if self.norm is None:
            return slope * factor[:, None], middle * factor + offset, np.abs(factor) * error + loss
        norm = self.norm
        tilt = (factor * norm.tilted)[:, None] * norm.tilt[:, :, None]
        scale = factor * norm.scale
        middle = middle * scale + factor * norm.shift + offset
        return slope * scale[:, None] + tilt, middle, np.abs(scale) * error + np.abs(factor) * norm.error + loss


def _norm(layer: Layer, slope: np.ndarray, middle: np.ndarray, error: np.ndarray | None, spread: np.ndarray) -> Norm:
    """The norm's linear form: with v = mean z² + 1e-5, 1/σ = v^-1/2 is convex, so a chord and its parallel bound it."""
    assert layer.gain is not None and layer.shift is not None
    outer, inner = np.abs(middle) + spread, np.maximum(np.abs(middle) - spread, 0)
    # v = mean middle² + variation · ε + rest, and the rest is of second order.
    variation = 2 * np.einsum("bmn,bn->bm", slope, middle) / middle.shape[1]
    v = (middle**2).mean(axis=1) + LAYER_NORM_EPSILON
    loose = spread - _sum_of_sizes(slope)
    linear = np.abs(variation).sum(axis=1)
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
    t_change = np.minimum(np.abs(tilt).sum(axis=1) + t_error, np.maximum(t_high - at_middle, at_middle - t_low))
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
    reach_of_form = np.abs(scale) * spread + np.abs(tilted) * np.abs(tilt).sum(axis=1, keepdims=True) + norm_error
    form_middle = scale * middle + layer.shift
    y_low = np.maximum(y_low, form_middle - reach_of_form - room)
    y_high = np.maximum(y_low, np.minimum(y_high, form_middle + reach_of_form + room))
    return Norm(scale, tilted, tilt, norm_error + room, layer.shift, y_low, y_high)


class Upper(NamedTuple):
    """q(a) ≤ constant + slope · ε on the box, and as the critic itself evaluates it at most `rounding` more.

    `benefit` estimates what halving each side would gain.
    """

    constant: Float[np.ndarray, "b"]
    slope: Float[np.ndarray, "b m"]
    benefit: Float[np.ndarray, "b m"]
    rounding: Float[np.ndarray, "b"]

    @property
    def bound(self) -> Float[np.ndarray, "b"]:
        """The greatest value over the box."""
        return self.constant + np.abs(self.slope).sum(axis=-1)


class FoldedNetwork:
    """`network` at S given states: a function of the action alone, with its rounding over the box of all actions."""

    def __init__(
        self,
        network: Network,
        obs: Float[np.ndarray, "S s"],
        low: Float[np.ndarray, "S m"],
        high: Float[np.ndarray, "S m"],
    ):
        self.activation, self.last = network.activation, network.last
        first, size = network.layers[0], obs.shape[1]
        self.by_action = first.weight[size:] / network.half_width[:, None]
        self.offset = obs @ first.weight[:size] + first.bias - network.center @ self.by_action
        self.layers = network.layers
        if first.gain is not None:
            # Subtracting the mean is linear: it goes into the weights, and layer norm is left with one division.
            self.by_action = self.by_action - self.by_action.mean(axis=1, keepdims=True)
            self.offset = self.offset - self.offset.mean(axis=1, keepdims=True)
            self.layers = tuple(_centered(layer) for layer in self.layers)
        self.absolute = [np.abs(layer.weight) for layer in self.layers]
        self.network = network
        action_size = (np.maximum(np.abs(low), np.abs(high)) + np.abs(network.center)) / network.half_width
        self.size = np.abs(np.concatenate([obs, action_size], axis=1))
        self.scaled = np.arange(self.size.shape[1]) >= size
        self.margins, self.own = self._margins((low + high) / 2, (high - low) / 2)

    def _margins(self, middle: np.ndarray, radius: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Rounding of what this class computes, per state: of each layer's z, and of the bound.

        Ranges over the box of all actions are those of interval arithmetic, widened by the margins themselves.
        """
        unit, size, error, margins = 2.0**-53, self.size, 4 * 2.0**-53 * self.size * self.scaled, []
        for number, (layer, original) in enumerate(zip(self.layers, self.network.layers, strict=True)):
            error = _product_error(original, size, error, unit)
            if number == 0:
                middle, radius = middle @ self.by_action + self.offset, radius @ np.abs(self.by_action)
            else:
                middle, radius = middle @ layer.weight + layer.bias, radius @ self.absolute[number]
            margins.append(SAFETY * error.max(axis=1))
            radius = radius + margins[-1][:, None]
            if layer.gain is not None:
                middle, radius, error = _normed(layer, middle, radius, error, unit)
            low, high = middle - radius, middle + radius
            size, error = _activated(self.activation, low, high, error, unit)
            least, greatest = self.activation.range(low, high)
            middle, radius = (least + greatest) / 2, (greatest - least) / 2
        return margins, SAFETY * _product_error(self.last, size, error, unit)[:, 0]

    def evaluation_error(self, state: Int[np.ndarray, "b"], layers: list[Enclosure]) -> Float[np.ndarray, "b"]:
        """How far the critic's own arithmetic may be from q on the enclosed boxes.

        A sum of n products in arithmetic of unit u errs by at most γ_n Σ|x_i w_i|, γ_n = n u / (1 − n u), in any order
        (Higham 2002, section 3.1), and errors e_i of x add Σ e_i |w_i|; activations and norms pass errors on by their
        Lipschitz constants.
        """
        unit, size = self.network.unit, self.size[state]
        error = 4 * unit * size * self.scaled
        for layer, original, enclosure in zip(self.layers, self.network.layers, layers, strict=True):
            error = _product_error(original, size, error, unit)
            low, high = enclosure.middle - enclosure.spread, enclosure.middle + enclosure.spread
            if enclosure.norm is not None:
                _, _, error = _normed(layer, enclosure.middle, enclosure.spread, error, unit)
                low, high = enclosure.norm.low, enclosure.norm.high
            size, error = _activated(self.activation, low, high, error, unit)
        return _product_error(self.last, size, error, unit)[:, 0]

    def values(
        self, state: Int[np.ndarray, "b"], action: Float[np.ndarray, "b m"], gradient: bool = False
    ) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b m"] | None]:
        """q and, where asked, ∂q/∂a (through layer norm with its deviation held fixed), in float64."""
        h, slopes = action, []
        for number, layer in enumerate(self.layers):
            z = h @ self.by_action + self.offset[state] if number == 0 else h @ layer.weight + layer.bias
            scale: Any = 1.0
            if layer.gain is not None:
                scale = layer.gain / np.sqrt((z**2).mean(axis=1, keepdims=True) + LAYER_NORM_EPSILON)
                z = z * scale + layer.shift
            h = self.activation.value(z)
            if gradient:
                slopes.append(self.activation.derivative(z) * scale)
        value = h @ self.last.weight[:, 0] + self.last.bias[0]
        if not gradient:
            return value, None
        back = self.last.weight[:, 0] * slopes[-1]
        for number in range(len(self.layers) - 1, 0, -1):
            back = (back @ self.layers[number].weight.T) * slopes[number - 1]
        return value, back @ self.by_action.T

    def enclose(
        self, state: Int[np.ndarray, "b"], center: Float[np.ndarray, "b m"], radius: Float[np.ndarray, "b m"]
    ) -> list[Enclosure]:
        """Every hidden layer over the boxes center ± radius, from the first to the last."""
        layers: list[Enclosure] = []
        b, m = center.shape
        for number, layer in enumerate(self.layers):
            if number == 0:
                slope = self.by_action[None] * radius[:, :, None]
                middle, error = center @ self.by_action + self.offset[state], None
                spread = radius @ np.abs(self.by_action)
            else:
                before = layers[-1]
                inner_slope, inner_middle, inner_error = before.activated()
                slope = (inner_slope.reshape(b * m, -1) @ layer.weight).reshape(b, m, -1)
                middle = inner_middle @ layer.weight + layer.bias
                error = inner_error @ self.absolute[number]
                spread = _sum_of_sizes(slope) + error
            layers.append(self._layer(layer, slope, middle, error, spread + self.margins[number][state][:, None]))
        return layers

    def _layer(
        self, layer: Layer, slope: np.ndarray, middle: np.ndarray, error: np.ndarray | None, spread: np.ndarray
    ) -> Enclosure:
        if layer.gain is None:
            return Enclosure(slope, middle, error, spread, self.activation.band(middle - spread, middle + spread))
        norm = _norm(layer, slope, middle, error, spread)
        return Enclosure(slope, middle, error, spread, self.activation.band(norm.low, norm.high), norm)

    def upper(
        self, state: Int[np.ndarray, "b"], center: Float[np.ndarray, "b m"], radius: Float[np.ndarray, "b m"]
    ) -> Upper:
        """A linear function on each box that is nowhere below q, evaluated in real arithmetic."""
        layers = self.enclose(state, center, radius)
        lower_slopes = [self._lower_slope(layer) for layer in layers]
        return self._backward(layers, lower_slopes, state, radius)

    def _lower_slope(self, layer: Enclosure) -> np.ndarray:
        """Slopes of the lines below the activation; of a kinked one any from `kink` to 1 will do, through 0."""
        if not isinstance(self.activation, PiecewiseLinear):
            return layer.band.slope
        kink = self.activation.kink
        return np.where(layer.band.error > 0, np.where(layer.band.slope > (1 + kink) / 2, 1.0, kink), layer.band.slope)

    def _backward(
        self, layers: list[Enclosure], lower_slopes: list[np.ndarray], state: np.ndarray, radius: np.ndarray
    ) -> Upper:
        b, m = radius.shape
        weight = np.broadcast_to(self.last.weight[:, 0], (b, self.last.weight.shape[0]))
        constant = np.full(b, self.last.bias[0]) + self.own[state]
        slope, benefit = np.zeros((b, m)), np.zeros((b, m))
        for number in range(len(layers) - 1, -1, -1):
            layer, parameters = layers[number], self.layers[number]
            size = np.abs(weight)
            loss = size * layer.band.error
            constant += _dot(weight, layer.band.offset) + loss.sum(axis=1)
            weight = weight * np.where(weight > 0, layer.band.slope, lower_slopes[number])
            if layer.norm is not None:
                norm = layer.norm
                norm_loss = np.abs(weight) * norm.error
                constant += weight @ parameters.shift + norm_loss.sum(axis=1)
                loss = loss + norm_loss
                slope += _dot(weight, norm.tilted)[:, None] * norm.tilt
                weight = weight * norm.scale
            share = loss / np.maximum(layer.spread, np.finfo(float).tiny)
            if number == 0:
                constant += _dot(weight, layer.middle)
                slope += (weight @ self.by_action.T) * radius
                benefit += (share @ np.abs(self.by_action).T) * radius
            else:
                constant += weight @ parameters.bias
                benefit += (np.abs(layer.slope) @ share[:, :, None])[..., 0]
                weight = weight @ parameters.weight.T
        return Upper(constant, slope, benefit, self.evaluation_error(state, layers))


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("bn,bn->b", left, right)


def _sum_of_sizes(slope: Float[np.ndarray, "b m n"]) -> Float[np.ndarray, "b n"]:
    """Σ_k |A_k|, one coordinate at a time: the array of all |A_k| would cost as much as the product that made A."""
    total = np.abs(slope[:, 0])
    for axis in range(1, slope.shape[1]):
        total += np.abs(slope[:, axis])
    return total


def _centered(layer: Layer) -> Layer:
    weight = layer.weight - layer.weight.mean(axis=1, keepdims=True)
    return layer._replace(weight=weight, bias=layer.bias - layer.bias.mean())


def _product_error(layer: Layer, size: np.ndarray, error: np.ndarray, unit: float) -> np.ndarray:
    """|fl(x W + b) − (x W + b)| where |x| ≤ size errs by `error`; the mean that layer norm subtracts included."""
    # What is zero adds no rounding: a neuron that is off at every action is no term.
    terms = np.count_nonzero(size + error, axis=1)[:, None] + 4
    absolute, bias = np.abs(layer.weight), np.abs(layer.bias)
    z_size, passed = size @ absolute + bias, error @ absolute
    total = _gamma(terms, unit) * (z_size + passed) + passed
    if layer.gain is None:
        return total
    mean = (total + _gamma(layer.weight.shape[1] + 4, unit) * z_size).mean(axis=1, keepdims=True)
    return total + mean + 2 * unit * (z_size + z_size.mean(axis=1, keepdims=True))


def _gamma(terms: Any, unit: float) -> Any:
    return terms * unit / (1 - terms * unit)


def _activated(
    activation: Relaxation, low: np.ndarray, high: np.ndarray, error: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray]:
    """(greatest |f(z)|, the error of f(z)) for z in [low, high] that errs by `error`: a neuron that is off has none."""
    least, greatest = activation.range(low, high)
    size = np.maximum(np.abs(least), np.abs(greatest))
    if isinstance(activation, PiecewiseLinear):
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
