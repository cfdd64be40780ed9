"""Action sets beyond the box: a polytope, and bounds that depend on the state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from fittedq.errors import UserError
from fittedq.types import AbstractActionSet, Arr, Box, namespace

Rows = tuple[tuple[float, ...], ...]


class AbstractBoxedSet(AbstractActionSet):
    """A(s) inside a fixed outer `box`, whose units policies and critics use: it can stand where a box stands."""

    box: eqx.AbstractVar[Box]

    @property
    def size(self) -> int:
        return self.box.size

    @property
    def low(self) -> tuple[float, ...]:
        return self.box.low

    @property
    def high(self) -> tuple[float, ...]:
        return self.box.high

    @property
    def center(self) -> tuple[float, ...]:
        return self.box.center

    @property
    def half_width(self) -> tuple[float, ...]:
        return self.box.half_width

    def to_unit(self, action: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """(a − center) / half_width of the outer box."""
        return self.box.to_unit(action)

    def from_unit(self, unit: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
        """center + half_width · u of the outer box; u in the unit box may leave A(s): project it."""
        return self.box.from_unit(unit)


class StateBox(AbstractBoxedSet):
    """A(s) = {a : low_fn(s) ≤ a ≤ high_fn(s)} inside the outer `box`.

    `low_fn` and `high_fn` take obs [b,s] and return [b,m], row by row, in array arithmetic that works on what they are
    given (NumPy on the host, JAX in compiled code). They are static: hashable, and never trained. Bounds are clipped to
    the outer box; where they cross, A(s) is the one point low_fn(s). `check` says whether they do.
    """

    low_fn: Callable[[Any], Any] = eqx.field(static=True)
    high_fn: Callable[[Any], Any] = eqx.field(static=True)
    box: Box

    def __init__(self, low_fn: Callable[[Any], Any], high_fn: Callable[[Any], Any], box: Box):
        self.low_fn, self.high_fn, self.box = low_fn, high_fn, box

    def bounds(self, obs: Float[Arr, "*b s"]) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        low = self.box.project(self.low_fn(obs), obs)
        high = self.box.project(self.high_fn(obs), obs)
        return low, namespace(low, high).maximum(low, high)

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        low, high = self.bounds(obs)
        return namespace(action, low).clip(action, low, high)

    def check(self, obs: Float[np.ndarray, "b s"]) -> None:
        """Raise `UserError` unless low_fn(s) ≤ high_fn(s), within the outer box, for every s in `obs`."""
        shape = (obs.shape[0], self.size)
        low, high = np.asarray(self.low_fn(obs)), np.asarray(self.high_fn(obs))
        for name, bound in (("low_fn", low), ("high_fn", high)):
            if bound.shape != shape:
                raise UserError(
                    f"action bounds: {name} returned shape {bound.shape} for obs of shape {obs.shape}, "
                    f"expected {shape}: one row per state, one column per action dimension."
                )
        crossed = ~(low <= high)
        outside = (low > np.asarray(self.high)) | (high < np.asarray(self.low))
        for problem, wrong in (("is empty or not a number", crossed), ("lies outside the outer box", outside)):
            if wrong.any():
                row, axis = np.argwhere(wrong)[0]
                raise UserError(
                    f"action bounds: at state {row} dimension {axis} is [{low[row, axis]}, {high[row, axis]}], which "
                    f"{problem}; expected low_fn(s) ≤ high_fn(s) inside the outer box."
                )


class Polytope(AbstractBoxedSet):
    """A = {a : low ≤ a ≤ high, matrix · a ≤ bound}, with an inside.

    Numbers, not arrays, as in `Box`. `hull` is the smallest box around A and `inner` the centre of the greatest ball in
    A, both in the environment's units (the ball in the outer box's half-widths); linear programs find them once.
    """

    box: Box
    matrix: Rows = eqx.field(static=True)
    bound: tuple[float, ...] = eqx.field(static=True)
    hull: Box
    inner: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self,
        low: Sequence[float] | np.ndarray,
        high: Sequence[float] | np.ndarray,
        matrix: Sequence[Sequence[float]] | np.ndarray,
        bound: Sequence[float] | np.ndarray,
    ):
        self.box = Box(low, high)
        try:
            rows, limits = np.atleast_2d(np.asarray(matrix, float)), np.atleast_1d(np.asarray(bound, float))
        except ValueError as error:
            raise UserError(f"polytope: matrix and bound must be numbers in equal rows ({error}).") from error
        if rows.ndim != 2 or rows.shape[1] != self.box.size or limits.shape != rows.shape[:1]:
            raise UserError(
                f"polytope: found a matrix of shape {rows.shape} and a bound of shape {limits.shape}, expected "
                f"(rows, {self.box.size}) and (rows,): one row per inequality, one column per action dimension."
            )
        if not (np.isfinite(rows).all() and np.isfinite(limits).all()):
            raise UserError("polytope: matrix and bound must be finite numbers; leave out a row that binds nothing.")
        if not np.any(rows, axis=1).all():
            raise UserError(
                f"polytope: row {int(np.argmin(np.any(rows, axis=1)))} of the matrix is zero; leave it out."
            )
        self.matrix = tuple(tuple(float(entry) for entry in row) for row in rows)
        self.bound = tuple(float(limit) for limit in limits)
        self.inner, self.hull = inner_and_hull(self.box, rows, limits)

    def bounds(self, obs: Float[Arr, "*b s"]) -> tuple[Float[Arr, "*#b m"], Float[Arr, "*#b m"]]:
        return self.hull.bounds(obs)

    def project(self, action: Float[Arr, "*b m"], obs: Float[Arr, "*b s"]) -> Float[Arr, "*b m"]:
        """argmin_{x ∈ A} ‖x − a‖₂, in A, and exact up to rounding: single precision gives about 1e-5 half-widths.

        An interior-point method finds which rows bind. The dual has one multiplier λ ≥ 0 per row,
        x = clip(a − matrixᵀ λ), and Newton steps make λ exact. The last one is differentiated, and alone carries the
        exact Jacobian.
        Source: Wright 1997 (primal-dual interior-point methods); Qi & Sun 1993 (semismooth Newton).
        """
        del obs
        xp = namespace(action)
        scale = max(self.box.half_width)
        center, low, high = np.asarray(self.box.center), np.asarray(self.low), np.asarray(self.high)
        matrix, bound = np.asarray(self.matrix), np.asarray(self.bound)
        length = np.linalg.norm(matrix, axis=1)
        # The rows are moved inwards by what rounding can undo: what is found then satisfies them without a tolerance.
        largest = np.abs(matrix) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(bound)
        margin = 4 * float(np.finfo(action.dtype).eps) * largest

        def constant(array: Any) -> Any:
            return xp.asarray(array, action.dtype)

        dual = Dual(
            point=(action - constant(center)) / constant(scale),
            low=constant((low - center) / scale),
            high=constant((high - center) / scale),
            rows=constant(matrix / length[:, None]),
            bound=constant((bound - margin - matrix @ center) / (length * scale)),
            margin=constant(margin / (length * scale)),
        )
        inner = constant((np.asarray(self.inner) - center) / scale)
        unit = dual.solve(inner) if xp is np else compiled_solve(dual, inner)
        nearest = constant(center) + constant(scale) * unit
        # Rounding of the units must not undo what the pull towards the inside made sure of.
        nearest = self.box.project(nearest, nearest)
        return xp.where(self.contains(action)[..., None], action, nearest)

    def contains(self, action: Float[Arr, "*b m"]) -> Any:
        """Whether low ≤ a ≤ high and matrix · a ≤ bound, row by row, without a tolerance."""
        xp = namespace(action)
        matrix, bound = xp.asarray(self.matrix, action.dtype), xp.asarray(self.bound, action.dtype)
        in_box = (action >= xp.asarray(self.low, action.dtype)) & (action <= xp.asarray(self.high, action.dtype))
        return xp.all(in_box, axis=-1) & xp.all(action @ matrix.T <= bound, axis=-1)


INTERIOR_STEPS = 25
CENTERING = 0.1
LEAST_COMPLEMENTARITY = 1e-10
SHARING = 1e-5
"""Two rows that say the same make a system singular; this much on its diagonal shares their multiplier."""
NEWTON_STEPS = 4
SETTLED = 3e-6
"""Residual of the dual, relative to the point, below which a Newton step is taken for the answer."""


class Dual(eqx.Module):
    """max_{λ ≥ 0} min_{low ≤ x ≤ high} ½‖x − point‖² + λ · (rows x − bound), rows of length one.

    Concave and once differentiable in λ; its gradient is the rows' excess rows x(λ) − bound.
    """

    point: Float[Arr, "*b m"]
    low: Float[Arr, "m"]
    high: Float[Arr, "m"]
    rows: Float[Arr, "p m"]
    bound: Float[Arr, "p"]
    margin: Float[Arr, "p"]

    def primal(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b m"]:
        """x(λ) = clip(point − rowsᵀ λ)."""
        return namespace(multiplier).clip(self.point - multiplier @ self.rows, self.low, self.high)

    def excess(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
        """rows x(λ) − bound."""
        return self.primal(multiplier) @ self.rows.T - self.bound

    def residual(self, multiplier: Float[Arr, "*b p"]) -> Any:
        """‖λ − max(0, λ + excess)‖_∞, zero exactly at the solution."""
        xp = namespace(multiplier)
        return xp.max(xp.abs(multiplier - xp.maximum(multiplier + self.excess(multiplier), 0)), axis=-1)

    def newton(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
        """One semismooth Newton step on the rows that bind."""
        xp = namespace(multiplier)
        binding = multiplier + self.excess(multiplier) > 0
        base = xp.where(binding, multiplier, 0)
        unclipped = self.point - base @ self.rows
        free = ((unclipped > self.low) & (unclipped < self.high)).astype(base.dtype)
        curvature = xp.einsum("pm,...m,qm->...pq", self.rows, free, self.rows)
        strength = xp.diagonal(curvature, axis1=-2, axis2=-1)
        binding = binding & (strength > 1e-10)
        curvature = xp.where(binding[..., :, None] & binding[..., None, :], curvature, 0)
        diagonal = xp.where(binding, SHARING * strength, 1.0).astype(base.dtype)
        curvature = curvature + diagonal[..., None] * xp.eye(self.rows.shape[0], dtype=base.dtype)
        excess = xp.where(binding, self.excess(base), 0)
        step = xp.linalg.solve(curvature, excess[..., None])[..., 0]
        return xp.maximum(base + step, 0)

    def polished(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
        """The λ of least residual on a path of Newton steps, which need not fall at each of them."""
        xp = namespace(multiplier)

        def step(_: Any, state: Any) -> Any:
            current, least = state
            current = self.newton(current)
            return current, xp.where((self.residual(current) < self.residual(least))[..., None], current, least)

        return repeat(xp, NEWTON_STEPS, step, (multiplier, multiplier))[1]

    def interior(self, inner: Float[Arr, "m"]) -> tuple[Float[Arr, "*b m"], Float[Arr, "*b p"]]:
        """(x, λ) near the solution, by a primal-dual interior-point method from the strictly feasible `inner`.

        Constraints walls · x + slack = limits, walls = [rows; I; −I]; target a tenth of the mean of z · slack. Each
        step solves (I + wallsᵀ (z / slack) walls) Δx = point − x − wallsᵀ (target / slack), by way of the rows'
        multipliers, which keeps single precision where z / slack is huge.
        """
        xp, dtype, (p, m) = namespace(self.point), self.point.dtype, self.rows.shape
        walls = xp.concatenate([self.rows, xp.eye(m, dtype=dtype), -xp.eye(m, dtype=dtype)])
        limits = xp.concatenate([self.bound, self.high, -self.low])

        def step(_: Any, state: Any) -> Any:
            x, slack, z = state
            target = xp.maximum(CENTERING * xp.mean(slack * z, axis=-1, keepdims=True), LEAST_COMPLEMENTARITY)
            weight = z / slack
            inverse = 1 / (1 + weight[..., p : p + m] + weight[..., p + m :])
            right = self.point - x - (target / slack) @ walls
            system = xp.einsum("pm,...m,qm->...pq", self.rows, inverse, self.rows)
            strength = xp.diagonal(system, axis1=-2, axis2=-1)
            diagonal = 1 / weight[..., :p] + SHARING * strength
            system = system + diagonal[..., None] * xp.eye(p, dtype=dtype)
            pressure = xp.linalg.solve(system, ((inverse * right) @ self.rows.T)[..., None])[..., 0]
            x_step = inverse * (right - pressure @ self.rows)
            # A row's slack moves by what its multiplier says: rows · Δx would be lost to rounding where slack is small.
            slack_step = xp.concatenate([-pressure / weight[..., :p], -x_step, x_step], axis=-1)
            z_step = target / slack - z - weight * slack_step
            shrinking = xp.maximum(xp.max(-slack_step / slack, -1), xp.max(-z_step / z, -1))
            length = xp.minimum(0.99 / xp.maximum(shrinking, 0.99), 1.0).astype(dtype)[..., None]
            return (
                x + length * x_step,
                xp.maximum(slack + length * slack_step, 1e-12),
                xp.maximum(z + length * z_step, 1e-12),
            )

        x = xp.broadcast_to(inner, self.point.shape)
        slack = xp.broadcast_to(limits - walls @ inner, (*self.point.shape[:-1], len(limits)))
        size = 1 + xp.max(xp.abs(self.point - inner), axis=-1, keepdims=True)
        state = repeat(xp, INTERIOR_STEPS, step, (x, slack, xp.broadcast_to(size, slack.shape).astype(dtype)))
        return state[0], state[2][..., :p]

    def solve(self, inner: Float[Arr, "m"]) -> Float[Arr, "*b m"]:
        """The nearest feasible point, with the derivative of a Newton step from it: the implicit function theorem."""
        xp = namespace(self.point)
        fixed = self if xp is np else jax.lax.stop_gradient(self)
        safe, multiplier = fixed.interior(inner)
        last = self.newton(fixed.polished(multiplier))
        settled = fixed.residual(last) < SETTLED * (1 + xp.max(xp.abs(fixed.point), axis=-1))
        return self.pulled_inside(xp.where(settled[..., None], self.primal(last), safe), inner)

    def pulled_inside(self, x: Float[Arr, "*b m"], inner: Float[Arr, "m"]) -> Float[Arr, "*b m"]:
        """inner + t (x − inner) with the greatest t ≤ 1 that keeps half the margin: t = 1 but for a rare inexact x."""
        xp = namespace(x)
        x = xp.clip(x, self.low, self.high)
        slack = xp.maximum(self.bound + self.margin / 2 - self.rows @ inner, 0)
        needed = (x - inner) @ self.rows.T
        t = xp.min(xp.where(needed > slack, slack / xp.maximum(needed, 1e-30), 1), axis=-1, keepdims=True)
        return inner + (t if xp is np else jax.lax.stop_gradient(t)) * (x - inner)


compiled_solve = jax.jit(Dual.solve)
"""Compiled once per shape also where the caller is not."""


def repeat(xp: Any, count: int, step: Callable[[Any, Any], Any], state: Any) -> Any:
    """`step` applied `count` times, compiled once on the side of JAX."""
    if xp is not np:
        return jax.lax.fori_loop(0, count, step, state)
    for index in range(count):
        state = step(index, state)
    return state


SMALLEST_RADIUS = 1e-4
"""In half-widths: a polytope whose greatest ball is smaller has no inside that single precision can see."""


def inner_and_hull(box: Box, matrix: np.ndarray, bound: np.ndarray) -> tuple[tuple[float, ...], Box]:
    """(the centre of the greatest ball in the polytope, the smallest box around it), by linear programs."""
    from scipy.optimize import (
        linprog,
    )  # JAX itself requires SciPy; importing it takes a moment that a box need not wait

    center, half_width, m = np.asarray(box.center), np.asarray(box.half_width), box.size
    rows, limits = matrix * half_width, bound - matrix @ center
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows, limits = rows / norms, limits / norms[:, 0]
    # The ball: rows · u + r ≤ limits, ±u_j + r ≤ 1, r as great as possible. Feasible for some r, perhaps negative.
    walls = np.vstack([rows, np.eye(m), -np.eye(m)])
    reach = np.concatenate([limits, np.ones(2 * m)])
    ball = linprog(
        np.eye(m + 1)[m] * -1.0,
        A_ub=np.hstack([walls, np.ones((len(walls), 1))]),
        b_ub=reach,
        bounds=[(None, None)] * (m + 1),
    )
    if not ball.success:
        raise UserError(f"polytope: its linear program failed ({ball.message}); rescale the matrix and the bound.")
    radius = ball.x[m]
    if radius < SMALLEST_RADIUS:
        kind = "is empty" if radius < -1e-9 else "has no interior"
        raise UserError(
            f"polytope: {{a in the box: matrix · a ≤ bound}} {kind} (its greatest ball has radius {radius:.2g} "
            f"half-widths, expected at least {SMALLEST_RADIUS:g}); relax the rows, or remove the dimension they fix."
        )
    ends = np.empty((2, m))
    for axis in range(m):
        for end, sign in enumerate((1.0, -1.0)):
            extreme = linprog(sign * np.eye(m)[axis], A_ub=rows, b_ub=limits, bounds=[(-1, 1)] * m)
            if not extreme.success:
                raise UserError(f"polytope: its linear program failed ({extreme.message}); rescale the matrix.")
            ends[end, axis] = extreme.x[axis]
    ends = np.clip(ends, -1, 1)
    inner = tuple(float(entry) for entry in center + half_width * ball.x[:m])
    return inner, Box(center + half_width * ends[0], center + half_width * ends[1])
