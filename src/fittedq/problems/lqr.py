"""The discounted linear-quadratic regulator, hard and soft: every answer in closed form, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _fixed_point(source: np.ndarray, factor: np.ndarray, gamma: float) -> np.ndarray:
    """X = source + γ factor X factorᵀ, solved as one linear system."""
    size = source.shape[0]
    system = np.eye(size**2) - gamma * np.kron(factor, factor)
    return _symmetric(np.linalg.solve(system, source.ravel()).reshape(size, size))


@dataclass(frozen=True)
class LinearQuadratic:
    """r = −(sᵀQs + aᵀRa), s' = As + Ba + w, w ~ N(0, W), discounted by γ; with a temperature β, r gains β · entropy.

    P and the gain do not depend on β: only the policy's spread and the constants do. For unbounded actions.
    """

    A: Float[np.ndarray, "s s"]
    B: Float[np.ndarray, "s m"]
    Q: Float[np.ndarray, "s s"]
    R: Float[np.ndarray, "m m"]
    W: Float[np.ndarray, "s s"]
    gamma: float
    temperature: float = 0.0

    @staticmethod
    def scalar(gamma: float = 0.9, noise: float = 0.01, temperature: float = 0.0) -> LinearQuadratic:
        """A = B = Q = R = 1, W = noise."""
        one = np.ones((1, 1))
        return LinearQuadratic(one, one, one, one, noise * one, gamma, temperature)

    # ------------------------------------------------------------------ the optimum

    def q_matrix(self, P: Float[np.ndarray, "s s"]) -> Float[np.ndarray, "sm sm"]:
        """H = [[Q + γAᵀPA, γAᵀPB], [γBᵀPA, R + γBᵀPB]]: one step of reward, then −s'ᵀPs'."""
        dynamics = np.hstack([self.A, self.B])
        cost = np.zeros((dynamics.shape[1],) * 2)
        size = self.A.shape[0]
        cost[:size, :size], cost[size:, size:] = self.Q, self.R
        return cost + self.gamma * dynamics.T @ P @ dynamics

    def riccati(self, P: Float[np.ndarray, "s s"]) -> Float[np.ndarray, "s s"]:
        """Q + γAᵀPA − γ²AᵀPB M⁻¹ BᵀPA, M = R + γBᵀPB: one exact step of value iteration, kept symmetric."""
        size, H = self.A.shape[0], self.q_matrix(P)
        return _symmetric(H[:size, :size] - H[:size, size:] @ np.linalg.solve(H[size:, size:], H[size:, :size]))

    @cached_property
    def P(self) -> Float[np.ndarray, "s s"]:
        """V*(s) = −sᵀPs − constant: the fixed point of `riccati`."""
        P = np.zeros_like(self.Q)
        for _ in range(100_000):
            P, previous = self.riccati(P), P
            if np.allclose(P, previous, rtol=1e-14, atol=1e-14):
                return P
        raise ValueError("the Riccati iteration does not converge: no gain keeps the discounted cost finite")

    @property
    def H(self) -> Float[np.ndarray, "sm sm"]:
        """q*(s, a) = −[s; a]ᵀ H [s; a] − q_constant."""
        return self.q_matrix(self.P)

    @property
    def M(self) -> Float[np.ndarray, "m m"]:
        """R + γBᵀPB, the curvature of −q* in a."""
        size = self.A.shape[0]
        return self.H[size:, size:]

    @property
    def gain(self) -> Float[np.ndarray, "m s"]:
        """K = γM⁻¹BᵀPA: the best action is −Ks."""
        size = self.A.shape[0]
        return np.linalg.solve(self.M, self.H[size:, :size])

    @property
    def covariance(self) -> Float[np.ndarray, "m m"]:
        """(β/2) M⁻¹: π*(· | s) = N(−Ks, (β/2) M⁻¹)."""
        return self.temperature / 2 * np.linalg.inv(self.M)

    @property
    def smoothing(self) -> float:
        """h = β[(m/2) log(πβ) − ½ log|M|] = β log ∫ exp(−aᵀMa / β) da; 0 without a temperature."""
        beta = self.temperature
        if beta == 0:
            return 0.0
        return beta * float(self.M.shape[0] / 2 * np.log(np.pi * beta) - np.linalg.slogdet(self.M)[1] / 2)

    @property
    def constant(self) -> float:
        """c = (γ tr(PW) − h) / (1 − γ)."""
        return (self.gamma * float(np.trace(self.P @ self.W)) - self.smoothing) / (1 - self.gamma)

    @property
    def q_constant(self) -> float:
        """γ (tr(PW) + c); without a temperature it is c itself."""
        return self.gamma * (float(np.trace(self.P @ self.W)) + self.constant)

    # ------------------------------------------------------------------ any linear policy, a ~ N(−Ks, Σ)

    def policy_P(self, gain: Float[np.ndarray, "m s"]) -> Float[np.ndarray, "s s"]:
        """P_K = Q + KᵀRK + γA_cᵀ P_K A_c, A_c = A − BK: V_π(s) = −sᵀP_K s − policy_constant."""
        return _fixed_point(self.Q + gain.T @ self.R @ gain, (self.A - self.B @ gain).T, self.gamma)

    def policy_constant(self, gain: Float[np.ndarray, "m s"], covariance: Float[np.ndarray, "m m"]) -> float:
        """c_K = [tr(RΣ) − β entropy + γ tr(P_K (W + BΣBᵀ))] / (1 − γ)."""
        bonus = 0.0
        if self.temperature > 0:
            bonus = self.temperature * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1] / 2
        spread = self.W + self.B @ covariance @ self.B.T
        cost = np.trace(self.R @ covariance) - bonus + self.gamma * np.trace(self.policy_P(gain) @ spread)
        return float(cost) / (1 - self.gamma)

    def advantage_gain(self, gain: Float[np.ndarray, "m s"]) -> Float[np.ndarray, "m s"]:
        """E_K = (R + γBᵀP_K B) K − γBᵀP_K A, zero at the best gain."""
        size, H = self.A.shape[0], self.q_matrix(self.policy_P(gain))
        return H[size:, size:] @ gain - H[size:, :size]

    def discounted_moments(
        self,
        gain: Float[np.ndarray, "m s"],
        covariance: Float[np.ndarray, "m m"],
        first: Float[np.ndarray, "s s"],
        steps: int | None = None,
    ) -> Float[np.ndarray, "s s"]:
        """Σ_t γᵗ X_t, X_t = E[s_t s_tᵀ], X_0 = first, over t < steps or all t."""
        closed, spread = self.A - self.B @ gain, self.W + self.B @ covariance @ self.B.T
        if steps is None:
            return _fixed_point(first + self.gamma / (1 - self.gamma) * spread, closed, self.gamma)
        total, moment = np.zeros_like(first), first
        for step in range(steps):
            total = total + self.gamma**step * moment
            moment = closed @ moment @ closed.T + spread
        return total

    def policy_gradient(
        self,
        gain: Float[np.ndarray, "m s"],
        covariance: Float[np.ndarray, "m m"],
        first: Float[np.ndarray, "s s"],
        steps: int | None = None,
    ) -> Float[np.ndarray, "m s"]:
        """∇_K J = −2 E_K Σ_t γᵗ X_t; `steps` truncates the sum, as a rollout with the true critic at its end does."""
        return -2 * self.advantage_gain(gain) @ self.discounted_moments(gain, covariance, first, steps)
