"""A loop that is not as it was learned: what is measured and when, when decisions arrive, and a load."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Generic, final

import numpy as np
from jaxtyping import Bool, Float

from fittedq.acting.episodes import AbstractController, Memory
from fittedq.actions.base import Box
from fittedq.envs.flat import FlatEnv


@final
@dataclass(frozen=True)
class Disturbed(Generic[Memory]):
    """What is kept of a disturbed loop."""

    inner: Memory
    """The controller's own."""
    sample: int
    seeds: tuple[int, ...]
    """Of each episode's noise."""
    waiting: tuple[Float[np.ndarray, "b m"], ...]
    """Decided, and not yet at the plant; the oldest first."""
    measured: tuple[Float[np.ndarray, "b s"], ...]
    """Measured, and not yet at the controller; the oldest first."""
    reading: Float[np.ndarray, "b s"] | None
    """What the controller read last."""
    acting: Float[np.ndarray, "b m"] | None
    """The action that reached the plant last, without the load."""


@final
@dataclass(frozen=True)
class Perturbed(AbstractController[Disturbed[Memory]], Generic[Memory]):
    """u_t = clip(a_{t−k}) + load, a_t = π(y_t), y_t = round(s_{t−d} + ε_t), ε_t ~ N(0, diag noise²): `controller` in a
    loop that is off.

    k = `delay` and d = `sensor_delay` samples, in which the first decision and the first observation stand. y is
    rounded to multiples of `quantum`, where that is above 0. With the probability `drop` a sample does not arrive, and
    the controller reads the one before again; with the probability `jitter` its decision comes too late for a sample,
    in which the plant goes on with the action before. `load` is a share of the half-widths of `box`, which is added
    from sample `load_from` on; from that sample on the sensor of coordinate `dead` gives NaN. What is drawn is drawn by
    the episode's first observation: controllers whose episodes begin alike meet the same noise.
    """

    controller: AbstractController[Memory]
    box: Box
    noise: Float[np.ndarray, "s"]
    delay: int = 0
    load: float = 0.0
    load_from: int = 0
    sensor_delay: int = 0
    quantum: Float[np.ndarray, "s"] | None = None
    drop: float = 0.0
    jitter: float = 0.0
    dead: int | None = None

    def __str__(self) -> str:
        return str(self.controller)

    def start(self, number: int) -> Disturbed[Memory]:
        return Disturbed(self.controller.start(number), 0, (), (), (), None, None)

    def step(
        self, memory: Disturbed[Memory], obs: Float[np.ndarray, "b s"]
    ) -> tuple[Float[np.ndarray, "b m"], Disturbed[Memory]]:
        obs = np.asarray(obs, np.float32)
        seeds = memory.seeds or tuple(zlib.crc32(row.tobytes()) for row in obs)
        draws = [np.random.default_rng((seed, memory.sample)) for seed in seeds]
        noise = np.stack([draw.standard_normal(obs.shape[1]) for draw in draws])
        lost, late = np.stack([draw.random(2) for draw in draws], axis=1) < [[self.drop], [self.jitter]]
        measured = (*memory.measured, obs)
        reading = self._read(measured[0] + self.noise * noise, memory, lost)
        decided, inner = self.controller.step(memory.inner, reading)
        waiting = (*memory.waiting, np.asarray(decided, np.float32))
        acting = np.clip(waiting[0], self.box.low, self.box.high).astype(np.float32)
        if memory.acting is not None:
            acting = np.where(late[:, None], memory.acting, acting)
        loaded = acting + self.load * np.asarray(self.box.half_width) * (memory.sample >= self.load_from)
        kept = waiting[-self.delay :] if self.delay else ()
        behind = measured[-self.sensor_delay :] if self.sensor_delay else ()
        return loaded.astype(np.float32), Disturbed(inner, memory.sample + 1, seeds, kept, behind, reading, acting)

    def _read(
        self, sensed: Float[np.ndarray, "b s"], memory: Disturbed[Memory], lost: Bool[np.ndarray, "b"]
    ) -> Float[np.ndarray, "b s"]:
        """What arrives of what the sensors say."""
        if self.quantum is not None:
            step = np.where(self.quantum > 0, self.quantum, 1.0)
            sensed = np.where(self.quantum > 0, np.round(sensed / step) * step, sensed)
        if self.dead is not None and memory.sample >= self.load_from:
            sensed = np.where(np.arange(sensed.shape[1]) == self.dead, np.nan, sensed)
        if memory.reading is not None:
            sensed = np.where(lost[:, None], memory.reading, sensed)
        return sensed.astype(np.float32)

    def check(self, env: FlatEnv) -> None:
        self.controller.check(env)
