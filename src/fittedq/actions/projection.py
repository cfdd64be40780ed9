"""The nearest point of a polytope: an interior-point method, and its derivative."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from fittedq.actions.base import Box
from fittedq.arrays import Arr, namespace, repeat
from fittedq.errors import UserError

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

    def residual(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b 1"]:
        """‖λ − max(0, λ + excess)‖_∞, zero exactly at the solution."""
        xp = namespace(multiplier)
        return xp.max(xp.abs(multiplier - xp.maximum(multiplier + self.excess(multiplier), 0)), axis=-1, keepdims=True)

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
        step = solve_positive(curvature, excess)
        return xp.maximum(base + step, 0)

    def polished(self, multiplier: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
        """The λ of least residual on a path of Newton steps, which need not fall at each of them."""
        xp = namespace(multiplier)

        def step(state: tuple[Arr, Arr]) -> tuple[Arr, Arr]:
            current, least = state
            current = self.newton(current)
            return current, xp.where(self.residual(current) < self.residual(least), current, least)

        return repeat(NEWTON_STEPS, step, (multiplier, multiplier))[1]

    def interior(self, inner: Float[Arr, "m"]) -> tuple[Float[Arr, "*b m"], Float[Arr, "*b p"]]:
        """(x, λ) near the solution, by a primal-dual interior-point method from the strictly feasible `inner`.

        Constraints walls · x + slack = limits, walls = [rows; I; −I]; target a tenth of the mean of z · slack. Each
        step solves (I + wallsᵀ (z / slack) walls) Δx = point − x − wallsᵀ (target / slack), by way of the rows'
        multipliers, which keeps single precision where z / slack is huge.
        """
        xp, dtype, (p, m) = namespace(self.point), self.point.dtype, self.rows.shape
        walls = xp.concatenate([self.rows, xp.eye(m, dtype=dtype), -xp.eye(m, dtype=dtype)])
        limits = xp.concatenate([self.bound, self.high, -self.low])

        def step(state: tuple[Arr, Arr, Arr]) -> tuple[Arr, Arr, Arr]:
            x, slack, z = state
            target = xp.maximum(CENTERING * xp.mean(slack * z, axis=-1, keepdims=True), LEAST_COMPLEMENTARITY)
            weight = z / slack
            inverse = 1 / (1 + weight[..., p : p + m] + weight[..., p + m :])
            right = self.point - x - (target / slack) @ walls
            system = xp.einsum("pm,...m,qm->...pq", self.rows, inverse, self.rows)
            strength = xp.diagonal(system, axis1=-2, axis2=-1)
            diagonal = 1 / weight[..., :p] + SHARING * strength
            system = system + diagonal[..., None] * xp.eye(p, dtype=dtype)
            pressure = solve_positive(system, (inverse * right) @ self.rows.T)
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
        state = repeat(INTERIOR_STEPS, step, (x, slack, xp.broadcast_to(size, slack.shape).astype(dtype)))
        return state[0], state[2][..., :p]

    def nearest(self, inner: Float[Arr, "m"]) -> Float[Arr, "*b m"]:
        """The nearest feasible point, with the derivative of a Newton step from it: the implicit function theorem."""
        xp = namespace(self.point)
        fixed = self if xp is np else jax.lax.stop_gradient(self)
        safe, multiplier = fixed.interior(inner)
        last = self.newton(fixed.polished(multiplier))
        settled = fixed.residual(last) < SETTLED * (1 + xp.max(xp.abs(fixed.point), axis=-1, keepdims=True))
        return self.pulled_inside(xp.where(settled, self.primal(last), safe), inner)

    def pulled_inside(self, x: Float[Arr, "*b m"], inner: Float[Arr, "m"]) -> Float[Arr, "*b m"]:
        """inner + t (x − inner) with the greatest t ≤ 1 that keeps half the margin: t = 1 but for a rare inexact x."""
        xp = namespace(x)
        x = xp.clip(x, self.low, self.high)
        slack = xp.maximum(self.bound + self.margin / 2 - self.rows @ inner, 0)
        needed = (x - inner) @ self.rows.T
        t = xp.min(xp.where(needed > slack, slack / xp.maximum(needed, 1e-30), 1), axis=-1, keepdims=True)
        return inner + (t if xp is np else jax.lax.stop_gradient(t)) * (x - inner)


compiled_nearest: Callable[[Dual, Arr], jax.Array] = jax.jit(Dual.nearest)  # pyright: ignore[reportUnknownMemberType]
"""Compiled once per shape also where the caller is not."""


MOST_UNROLLED = 10


def solve_positive(matrix: Float[Arr, "*b p p"], right: Float[Arr, "*b p"]) -> Float[Arr, "*b p"]:
    """matrix⁻¹ right, for symmetric positive definite matrices.

    Compiled for small p, Cholesky's method is written out over the batch: a library call for each tiny matrix takes
    longer than the arithmetic of all of them.
    """
    xp, p = namespace(matrix, right), right.shape[-1]
    if xp is np or p > MOST_UNROLLED:
        return xp.linalg.solve(matrix, right[..., None])[..., 0]
    factor: dict[tuple[int, int], Arr] = {}
    forward: list[Arr] = []
    for row in range(p):
        for column in range(row + 1):
            rest = matrix[..., row, column] - sum(factor[row, k] * factor[column, k] for k in range(column))
            factor[row, column] = xp.sqrt(rest) if row == column else rest / factor[column, column]
        known = sum(factor[row, k] * forward[k] for k in range(row))
        forward.append((right[..., row] - known) / factor[row, row])
    solution: dict[int, Arr] = {}
    for row in reversed(range(p)):
        known = sum(factor[k, row] * solution[k] for k in range(row + 1, p))
        solution[row] = (forward[row] - known) / factor[row, row]
    return xp.stack([solution[row] for row in range(p)], axis=-1)


SMALLEST_RADIUS = 1e-4
"""In half-widths: a polytope whose greatest ball is smaller has no inside that single precision can see."""


def _lowest(
    cost: Float[np.ndarray, "m"], rows: Float[np.ndarray, "p m"], limits: Float[np.ndarray, "p"], reach: float
) -> Float[np.ndarray, "m"]:
    """argmin cost · x over rows x ≤ limits, |x_i| ≤ reach, by a linear program."""
    # JAX itself requires SciPy; importing it takes a moment that a box need not wait.
    optimize = import_module("scipy.optimize")
    answer = optimize.linprog(cost, A_ub=rows, b_ub=limits, bounds=(-reach, reach))
    if not answer.success:
        raise UserError(f"polytope: its linear program failed ({answer.message}); rescale the matrix and the bound.")
    return np.asarray(answer.x)


def inner_and_hull(box: Box, matrix: np.ndarray, bound: np.ndarray) -> tuple[tuple[float, ...], Box]:
    """(the centre of the greatest ball in the polytope, the smallest box around it), by linear programs."""
    center, half_width, m = np.asarray(box.center), np.asarray(box.half_width), box.size
    rows, limits = matrix * half_width, bound - matrix @ center
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows, limits = rows / norms, limits / norms[:, 0]
    # The ball: rows · u + r ≤ limits, ±u_j + r ≤ 1, r as great as possible. Feasible for some r, perhaps negative.
    walls = np.vstack([rows, np.eye(m), -np.eye(m)])
    reach = np.concatenate([limits, np.ones(2 * m)])
    ball = _lowest(-np.eye(m + 1)[m], np.hstack([walls, np.ones((len(walls), 1))]), reach, np.inf)
    radius = ball[m]
    if radius < SMALLEST_RADIUS:
        kind = "is empty" if radius < -1e-9 else "has no interior"
        raise UserError(
            f"polytope: {{a in the box: matrix · a ≤ bound}} {kind} (its greatest ball has radius {radius:.2g} "
            f"half-widths, expected at least {SMALLEST_RADIUS:g}); relax the rows, or remove the dimension they fix."
        )
    ends = np.empty((2, m))
    for axis in range(m):
        for end, sign in enumerate((1.0, -1.0)):
            ends[end, axis] = _lowest(sign * np.eye(m)[axis], rows, limits, 1.0)[axis]
    ends = np.clip(ends, -1, 1)
    inner = tuple(float(entry) for entry in center + half_width * ball[:m])
    return inner, Box(center + half_width * ends[0], center + half_width * ends[1])
