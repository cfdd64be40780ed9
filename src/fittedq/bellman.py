"""The chapter's equations as small functions of arrays. Each stands here once; everything else calls it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from fittedq.arrays import Arr, Scalar, Tree, namespace

LOG_2PI = float(np.log(2 * np.pi))


def td_target(
    reward: Float[Arr, "*#b"], terminated: Bool[Arr, "*#b"], next_value: Float[Arr, "*b"], gamma: float
) -> Float[Arr, "*b"]:
    """y = r + γ (1 − terminated) v(s').

    Truncation does not appear: an episode cut by a time limit bootstraps from its last observation.
    Source: chapter, "Embedded Optimization", with the terminal mask it lacks.
    """
    return reward + gamma * (1.0 - terminated.astype(reward.dtype)) * next_value


def value_range(
    reward: tuple[float, float], gamma: float, bonus: tuple[float, float] = (0.0, 0.0)
) -> tuple[float, float]:
    """[r_min + γ/(1 − γ) min(0, r_min + h_min),  r_max + γ/(1 − γ) max(0, r_max + h_max)], which holds every q.

    `bonus` is [h_min, h_max] with  inf q + h_min ≤ v(s') ≤ sup q + h_max,  v(s') being what the target bootstraps from.
    A maximum and a policy's mean of q have h = 0, which leaves [r_min, r_max] / (1 − γ), and a reward alone at the end
    of an episode. β log ∫_A exp(q/β) lies between mean_A q + β log |A| (Jensen: log is concave) and max q + β log |A|,
    so that h = β log |A|, of either sign. A policy's mean of q − β log π has h_max = β log |A|, the entropy's largest
    value, and no h_min: a narrow policy's entropy has no lower end.

    Proof, upper end: let q ≤ U. Then y ≤ r_max + γ max(0, U + h_max), the 0 where the episode ends, and this is ≤ U for
    the U above. So no target leaves the range once q lies in it, nor does the fixed point; and clipping a target to the
    range only takes it nearer to the fixed point. The lower end is its mirror image.
    """
    low, high = (min(0.0, reward[0] + bonus[0]), max(0.0, reward[1] + bonus[1]))
    steps = gamma / (1.0 - gamma)
    return (reward[0] + steps * low if gamma else reward[0]), reward[1] + steps * high


def return_range(reward: tuple[float, float], gamma: float, horizon: int) -> tuple[float, float]:
    """[r_min + (S − 1) min(0, r_min), r_max + (S − 1) max(0, r_max)],  S = Σ_{t<H} γᵗ: every return of 1 to H samples.

    An episode has one sample at least, and may end before it earns or pays more.
    """
    more = sum(gamma**sample for sample in range(1, horizon))
    return reward[0] + more * min(0.0, reward[0]), reward[1] + more * max(0.0, reward[1])


def soft_value(q: Float[Arr, "*b"], log_prob: Float[Arr, "*#b"], temperature: Scalar) -> Float[Arr, "*b"]:
    """q(s, a) − β log π(a | s), whose mean over a ~ π is the soft value of π at s.

    With β = 0 it is q itself, the deterministic case.
    Source: Haarnoja et al. 2018 (soft actor-critic), eq. 3.
    """
    return q - temperature * log_prob


def smooth_max(q: Float[Arr, "*b k"], log_weight: Float[Arr, "*#b k"], temperature: Scalar) -> Float[Arr, "*b"]:
    """v_β(s) = β log Σ_k exp(log_weight_k + q(s, a_k) / β) ≈ β log ∫_A exp(q(s, a) / β) da.

    `log_weight` holds log quadrature weights, or −log(K · proposal density) for K samples. Needs a bounded A;
    v_β may lie below max q, and never exceeds max q + β log |A|.
    Source: chapter, "Soft Actor-Critic".
    """
    return temperature * jax.scipy.special.logsumexp(q / temperature + log_weight, axis=-1)


def boltzmann_log_density(
    q: Float[Arr, "*b k"], smooth_value: Float[Arr, "*b"], temperature: Scalar
) -> Float[Arr, "*b k"]:
    """log π*(a | s) = (q(s, a) − v_β(s)) / β. Source: chapter, "Soft Actor-Critic"."""
    return (q - smooth_value[..., None]) / temperature


def smooth_backup(
    reward: Float[Arr, "*b"],
    next_v: Float[Arr, "*b k"],
    next_probability: Float[Arr, "*b k"],
    gamma: float,
) -> Float[Arr, "*b"]:
    """(B_β q)(s, a) = r + γ Σ_k p(s'_k) v_β(s'_k).

    For the operator on v this expectation stays *inside* the exponential over actions, so a single sampled s' biases
    β log ∫ exp((r + γ v(s')) / β) da; on q it is linear in s', and a sample is unbiased.
    """
    return reward + gamma * jnp.sum(next_probability * next_v, axis=-1)


def least(values: Float[Arr, "n *b"]) -> Float[Arr, "*b"]:
    """min_j values_j, whose gradient goes to the first least one alone.

    The gradient of `jnp.min` shares it among those equal to the minimum. Where a compiler computes the values once more
    for the comparison, rounded otherwise, none of them is, and the share is 0/0. NumPy's needs no gradient.
    """
    if namespace(values) is np:
        return values.min(axis=0)
    return functools.reduce(lambda low, value: jnp.where(value < low, value, low), values)


def gaussian_log_prob(normal: Float[Arr, "*b m"], log_std: Float[Arr, "*b m"]) -> Float[Arr, "*b"]:
    """log N(μ + σε; μ, σ²) = Σ_i [−ε_i²/2 − log σ_i − ½ log 2π]."""
    return jnp.sum(-0.5 * normal**2 - log_std - 0.5 * LOG_2PI, axis=-1)


def log_tanh_slope(u: Float[Arr, "*b m"]) -> Float[Arr, "*b m"]:
    """log(1 − tanh² u) = 2 (log 2 − |u| − log(1 + exp(−2|u|))), finite for every u.

    Plain `log` and `exp`, which XLA vectorizes, as it does not `log1p`: what `log` loses of a small exp(−2|u|) is below
    one rounding of the |u| beside it, and SAC's whole update is 3 % faster.
    """
    size = jnp.abs(u)
    return 2.0 * (jnp.log(2.0).astype(u.dtype) - size - jnp.log(1.0 + jnp.exp(-2.0 * size)))


def squashed_log_prob(
    normal: Float[Arr, "*b m"], log_std: Float[Arr, "*b m"], u: Float[Arr, "*b m"], half_width: tuple[float, ...]
) -> Float[Arr, "*b"]:
    """log π(a | s) = log N(u; μ, σ²) − Σ_i [log(1 − tanh² u_i) + log half_width_i], a = center + half_width · tanh u.

    A density over the box in the environment's own units: it integrates to one there.
    Source: Haarnoja et al. 2018, appendix C, with the scale of the box.
    """
    correction = jnp.sum(log_tanh_slope(u), axis=-1) + float(np.sum(np.log(half_width)))
    return gaussian_log_prob(normal, log_std) - correction


def temperature_loss(
    log_temperature: Float[Arr, ""], log_prob: Float[Arr, "b"], target_entropy: float
) -> Float[Arr, ""]:
    """J(β) = −β · mean(log π(a | s) + H̄): β rises while the entropy is below H̄.

    Source: Haarnoja et al. 2018b (Soft Actor-Critic Algorithms and Applications), eq. 18.
    """
    return -jnp.exp(log_temperature) * jnp.mean(log_prob + target_entropy)


def polyak(frozen: Tree, live: Tree, rate: Scalar) -> Tree:
    """θ̄ ← τ θ + (1 − τ) θ̄; τ = 1 copies, τ = 0 keeps. Works on any pytree."""

    def follow(slow: Tree, fast: Tree) -> Tree:
        return rate * fast + (1.0 - rate) * slow

    return jax.tree.map(follow, frozen, live)
