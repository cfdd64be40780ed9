"""The closed-form maximum over a box of a q that is quadratic in (s, a)."""

from __future__ import annotations

import itertools
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from fittedq.actions.base import AbstractActionSet
from fittedq.approx.linear import LinearCritic, Polynomial
from fittedq.arrays import Arr, namespace, repeat
from fittedq.errors import UserError
from fittedq.maximize.base import AbstractMaximizer, Effort, Solution, Status, exact, proven

ENUMERATED_SIZE = 4
"""The greatest m for which all 3^m faces of the box are looked at."""

ROUNDS = 30
"""Coordinate sweeps, each followed by a Newton step, above that: once the right face is found, one step ends it."""


class Quadratic(NamedTuple):
    """q(s, a) = constant(s) + slope(s)ᵀa + ½ aᵀ curvature a; `scale` bounds the sum of its terms' sizes per state."""

    constant: Float[Arr, "b"]
    slope: Float[Arr, "b m"]
    curvature: Float[Arr, "m m"]

    def value(self, action: Float[Arr, "b k m"]) -> Float[Arr, "b k"]:
        """q at k actions per state."""
        xp = namespace(action)
        quadratic = xp.einsum("bki,ij,bkj->bk", action, self.curvature, action)
        return self.constant[:, None] + xp.einsum("bki,bi->bk", action, self.slope) + quadratic / 2

    def gradient(self, action: Float[Arr, "b k m"]) -> Float[Arr, "b k m"]:
        """slope + curvature · a."""
        return self.slope[:, None] + action @ self.curvature


def polynomial_of(critic: LinearCritic) -> Polynomial | None:
    """The features, where q is a polynomial of degree 2 at most."""
    features = critic.features
    return features if isinstance(features, Polynomial) and features.degree <= 2 else None


def quadratic_form(critic: LinearCritic, obs: Float[Arr, "b s"]) -> Quadratic:
    """q as a function of a per state: q = c + wᵀx + xᵀWx, x = [s, a], has slope w_a + 2 W_as s, curvature 2 W_aa."""
    features = polynomial_of(critic)
    if features is None:
        raise UserError(
            f"quadratic maximum: the critic's features are {type(critic.features).__name__}"
            f"({getattr(critic.features, 'degree', '')}), expected a Polynomial of degree 2 at most; use another "
            "maximizer."
        )
    if critic.size != 1:
        raise UserError(f"quadratic maximum: found {critic.size} critics, expected one; take critic.subset.")
    xp = namespace(obs, critic.weights)
    variables, size = obs.shape[1] + critic.action_set.size, obs.shape[1]
    offset, linear, square = _coefficients(features, variables)
    weights = xp.asarray(critic.weights)[0]
    dtype = weights.dtype
    with jax.default_matmul_precision("highest"):
        w = weights @ xp.asarray(linear, dtype)
        W = xp.einsum("k,kij->ij", weights, xp.asarray(square, dtype))
        constant = weights @ xp.asarray(offset, dtype) + obs @ w[:size]
        constant = constant + xp.einsum("bi,ij,bj->b", obs, W[:size, :size], obs)
        return Quadratic(constant, w[size:] + 2 * obs @ W[:size, size:], 2 * W[size:, size:])


def _coefficients(features: Polynomial, variables: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each feature as a constant [k], a vector [k, x] and a symmetric matrix [k, x, x]."""
    terms = features.monomials(variables)
    offset, linear = np.zeros(len(terms)), np.zeros((len(terms), variables))
    square = np.zeros((len(terms), variables, variables))
    for index, term in enumerate(terms):
        if len(term) == 0:
            offset[index] = 1
        elif len(term) == 1:
            linear[index, term[0]] = 1
        else:
            square[index, term[0], term[1]] += 0.5
            square[index, term[1], term[0]] += 0.5
    return offset, linear, square


class QuadraticArgmax(AbstractMaximizer[LinearCritic]):
    """max_{low ≤ a ≤ high} g(s)ᵀa + ½ aᵀHa for every state of a batch, in NumPy (float64 where the critic is) or JAX.

    m ≤ 4: on the face of the box where the maximum lies, the gradient along the face is zero, so the stationary points
    of all 3^m faces hold it, concave or not. A face on which H is singular needs no care: where the maximum lies inside
    it, q is constant along a line that ends on a smaller face.

    m > 4: exact coordinate ascent, alternating with Newton steps on the face reached. For a concave q,
    q(a) + max_{a'} ∇q(a)ᵀ(a' − a) bounds the maximum; where H is not negative definite the bound is +∞.

    `upper_bound` is that bound, widened for rounding. A set that is no box gets the projection of the bounding box's
    maximizer. The status is EXACT where the value reaches the bound to rounding, else ITERATION_LIMIT.
    """

    needs_starts: ClassVar[bool] = False
    on_host: ClassVar[bool] = False

    def __call__(
        self,
        critic: LinearCritic,
        obs: Float[Arr, "b s"],
        action_set: AbstractActionSet,
        starts: Float[Arr, "b k m"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Solution:
        del starts, key
        with jax.default_matmul_precision("highest"):
            return _maximum(critic, obs, action_set)


@proven.register
def _(critic: LinearCritic, action_set: AbstractActionSet, effort: Effort) -> AbstractMaximizer | None:
    del action_set, effort
    return QuadraticArgmax() if critic.size == 1 and polynomial_of(critic) is not None else None


@exact.register
def _(critic: LinearCritic, action_set: AbstractActionSet, effort: Effort) -> AbstractMaximizer | None:
    """In a polytope or among whole numbers only the bound holds."""
    return proven(critic, action_set, effort) if action_set.separable else None


def _maximum(critic: LinearCritic, obs: Float[Arr, "b s"], action_set: AbstractActionSet) -> Solution:
    form = quadratic_form(critic, obs)
    xp = namespace(form.slope)
    low, high = (xp.broadcast_to(xp.asarray(bound), form.slope.shape) for bound in action_set.bounds(obs))
    if action_set.size <= ENUMERATED_SIZE:
        action = _by_faces(form, low, high)
        gap = xp.zeros_like(form.constant)
    else:
        action, gap = _by_newton(form, low, high)
    # Every monomial at the size of the state and the greatest action: no sum of the terms rounds by more.
    size = critic.features(xp.abs(xp.asarray(obs)), xp.maximum(xp.abs(low), xp.abs(high))) @ xp.abs(critic.weights[0])
    margin = 4 * (critic.weights.shape[1] + action_set.size) * xp.finfo(form.slope.dtype).eps * size
    bound = form.value(action[:, None])[:, 0] + gap + margin
    if not action_set.separable:
        action = action_set.project(action, obs)
    value = critic(obs, action)[0]
    status = xp.where(bound - value <= 3 * margin, Status.EXACT, Status.ITERATION_LIMIT).astype(np.int32)
    return Solution(action, value, bound, status)


def _by_faces(form: Quadratic, low: Float[Arr, "b m"], high: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
    """The best of the stationary points of q on the faces of the box, clipped to it: feasible, so none is too good."""
    xp = namespace(form.slope)
    size = low.shape[-1]
    # Per face and coordinate: −1 at low, 0 free, 1 at high.
    faces = np.array(list(itertools.product((-1, 0, 1), repeat=size)))
    free = xp.asarray(faces == 0)
    fixed = xp.where(faces < 0, low[:, None], xp.where(faces > 0, high[:, None], 0)).astype(low.dtype)
    inverse = _pseudo_inverse(xp.where(free[:, :, None] & free[:, None, :], form.curvature, 0))
    step = xp.einsum("fij,bfj->bfi", inverse, -form.gradient(fixed))
    points = xp.clip(fixed + step, low[:, None], high[:, None])
    winner = xp.argmax(form.value(points), axis=1)
    return xp.take_along_axis(points, winner[:, None, None], axis=1)[:, 0]


def _pseudo_inverse(matrix: Float[Arr, "f m m"]) -> Float[Arr, "f m m"]:
    """Of symmetric matrices; eigenvalues within rounding of zero count as zero."""
    xp = namespace(matrix)
    eigenvalue, vector = xp.linalg.eigh(matrix)
    rounding = 8 * matrix.shape[-1] * xp.finfo(matrix.dtype).eps
    kept = xp.abs(eigenvalue) > rounding * xp.max(xp.abs(eigenvalue), axis=-1, keepdims=True)
    reciprocal = xp.where(kept, 1 / xp.where(kept, eigenvalue, 1), 0)
    return (vector * reciprocal[..., None, :]) @ xp.swapaxes(vector, -1, -2)


def _by_newton(
    form: Quadratic, low: Float[Arr, "b m"], high: Float[Arr, "b m"]
) -> tuple[Float[Arr, "b m"], Float[Arr, "b"]]:
    """(a, a bound on max q − q(a)) for a concave q; (some action, ∞) for another."""
    xp = namespace(form.slope)
    size = low.shape[-1]
    identity = xp.eye(size, dtype=low.dtype)
    eigenvalue = xp.linalg.eigvalsh(form.curvature)
    concave = eigenvalue[-1] < -8 * size * xp.finfo(low.dtype).eps * xp.max(xp.abs(eigenvalue))
    H = xp.where(concave, form.curvature, -identity)
    shares = xp.asarray(0.5 ** np.arange(8), low.dtype)
    model = Quadratic(form.constant, form.slope, H)

    def gradient(action: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        return form.slope + action @ H

    def improve(action: Float[Arr, "b m"]) -> Float[Arr, "b m"]:
        for i in range(size):
            best = action[:, i] - (form.slope[:, i] + action @ H[:, i]) / H[i, i]
            action = xp.where(identity[i] > 0, xp.clip(best[:, None], low, high), action)
        slope = gradient(action)
        free = ~(((action <= low) & (slope <= 0)) | ((action >= high) & (slope >= 0)))
        system = xp.where(free[:, :, None] & free[:, None, :], H, -identity)
        newton = -xp.linalg.solve(system, xp.where(free, slope, 0)[..., None])[..., 0]
        arc = xp.clip(action[:, None] + shares[:, None] * newton[:, None], low[:, None], high[:, None])
        arc = xp.concatenate([action[:, None], arc], axis=1)
        winner = xp.argmax(model.value(arc), axis=1)
        return xp.take_along_axis(arc, winner[:, None, None], axis=1)[:, 0]

    action = repeat(ROUNDS, improve, (low + high) / 2)
    slope = gradient(action)
    gap = xp.sum(xp.maximum(slope * (high - action), slope * (low - action)), axis=-1)
    return action, xp.where(concave, gap, xp.inf).astype(low.dtype)
