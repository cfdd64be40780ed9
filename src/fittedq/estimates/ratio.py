"""How much more often than a log rollouts are at a state and action."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from fittedq.estimates.features import solver

KERNELS = 100
LENGTHS, RIDGES = (0.15, 0.3, 0.6, 1.2), (1e-3, 1e-2, 1e-1)


def density_ratios(
    logged: Float[np.ndarray, "n v"],
    block: Int[np.ndarray, "n"],
    visited: Float[np.ndarray, "t k v"],
    share: Float[np.ndarray, "t k"],
) -> Float[np.ndarray, "t n"]:
    """w_t at the rows of the log: mean_i w_{t,i} f(v_i) ≈ Σ_k share_{t,k} f(v_{t,k}), and = for f = 1.

    w_t = max(Σ_c α_{t,c} exp(−‖v − c‖² / 2ℓ²), 0), α_t = argmin ½ E_log[w_t²] − Σ_k share w_t(v_{t,k}) + λ ‖α‖² / 2,
    its centres drawn from where the rollouts are: what the log has elsewhere weighs nothing. ℓ and λ are those with the
    least such loss of Σ_t w_t on blocks that are held out.
    Source: Kanamori, Hido and Sugiyama 2009 (uLSIF).
    """
    spread = logged.std(axis=0)
    scale = np.where(spread > 1e-9, spread, 1.0) * np.sqrt(logged.shape[1])
    points, chances = visited.reshape(-1, visited.shape[2]) / scale, share.ravel() / share.sum()
    drawn = np.random.default_rng(0).choice(len(points), KERNELS, p=chances)
    centres, rows, held_out = points[drawn], logged / scale, block % 2 == 0
    best, least = None, np.inf
    for length in LENGTHS:
        design, there = _kernel(rows, centres, length), _kernel(points, centres, length)
        moments = np.einsum("tk,tkc->ct", share, there.reshape(*share.shape, -1))
        for ridge in RIDGES:
            loss = 0.0
            for fit in (held_out, ~held_out):
                alpha = _solved(design[fit], ridge, moments.sum(axis=1))
                loss += 0.5 * float(((design[~fit] @ alpha) ** 2).mean()) - float(moments.sum(axis=1) @ alpha)
            if best is None or loss < least:
                best, least = (design, ridge, moments), loss
    assert best is not None
    design, ridge, moments = best
    weights = np.maximum(design @ _solved(design, ridge, moments), 0).T
    total = weights.mean(axis=1)
    return weights * np.where(total > 0, share.sum(axis=1) / np.maximum(total, 1e-300), 0.0)[:, None]


def _kernel(a: Float[np.ndarray, "n v"], b: Float[np.ndarray, "c v"], length: float) -> Float[np.ndarray, "n c"]:
    square = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    return np.exp(np.maximum(square, 0) * (-0.5 / length**2))


def _solved(design: Float[np.ndarray, "n c"], ridge: float, moments: np.ndarray) -> np.ndarray:
    return solver(design.T @ design / len(design) + ridge * np.eye(design.shape[1]))(moments)
