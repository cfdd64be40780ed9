"""A controller as a short list of stages, each a formula with its numbers: what every target renders."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import numpy as np
from jaxtyping import Bool, Float, Int

from fittedq.actions.polytope import InUnits
from fittedq.approx.dense import Matrix, Vector
from fittedq.control.state import AugmentedState


class AbstractStage(abc.ABC):
    """One formula: the value it makes of earlier ones, a vector of `size` numbers."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Numbers that come out."""


@final
@dataclass(frozen=True, eq=False)
class Normalize(AbstractStage):
    """clip((x − mean) / deviation, ±limit); where the limit is infinite, mean 0 and deviation 1, x itself."""

    mean: Vector
    deviation: Vector
    limit: Vector

    @property
    def size(self) -> int:
        return len(self.mean)


@final
@dataclass(frozen=True, eq=False)
class Dense(AbstractStage):
    """x · weight + bias, weight [in, out]."""

    weight: Matrix
    bias: Vector

    @property
    def size(self) -> int:
        return len(self.bias)


@final
@dataclass(frozen=True, eq=False)
class Activate(AbstractStage):
    """f(x), number by number; `function` is a word of `approx.networks.ACTIVATIONS`."""

    function: str
    width: int

    @property
    def size(self) -> int:
        return self.width


LEAK, GELU, CUBE = 0.01, 0.7978845608028654, 0.044715
"""The slope of `leaky_relu` below 0; of `gelu` √(2/π), and how much of x³ it adds to x."""


@final
@dataclass(frozen=True, eq=False)
class LayerNorm(AbstractStage):
    """gain ∘ (x − mean x) / √(var x + least) + shift."""

    least: ClassVar[float] = 1e-5
    gain: Vector
    shift: Vector

    @property
    def size(self) -> int:
        return len(self.gain)


@final
@dataclass(frozen=True, eq=False)
class UnitLength(AbstractStage):
    """x / √(Σ x² + least)."""

    least: ClassVar[float] = 1e-12
    width: int

    @property
    def size(self) -> int:
        return self.width


@final
@dataclass(frozen=True, eq=False)
class AverageL1(AbstractStage):
    """x / max(mean |x|, least)."""

    least: ClassVar[float] = 1e-8
    width: int

    @property
    def size(self) -> int:
        return self.width


@final
@dataclass(frozen=True, eq=False)
class Append(AbstractStage):
    """[x, number]."""

    number: float
    width: int

    @property
    def size(self) -> int:
        return self.width


@final
@dataclass(frozen=True, eq=False)
class Join(AbstractStage):
    """[x, y] of two sources."""

    first: int
    """Of x."""
    width: int

    @property
    def size(self) -> int:
        return self.width


@final
@dataclass(frozen=True, eq=False)
class Blend(AbstractStage):
    """keep ∘ x + take ∘ y of two sources: a residual block's end."""

    keep: Vector
    take: Vector

    @property
    def size(self) -> int:
        return len(self.keep)


@final
@dataclass(frozen=True, eq=False)
class Affine(AbstractStage):
    """center + half_width ∘ u: from the unit box to units."""

    center: Vector
    half_width: Vector

    @property
    def size(self) -> int:
        return len(self.center)


@final
@dataclass(frozen=True, eq=False)
class Clip(AbstractStage):
    """clip(a, low, high)."""

    low: Vector
    high: Vector

    @property
    def size(self) -> int:
        return len(self.low)


@final
@dataclass(frozen=True, eq=False)
class RoundWhole(AbstractStage):
    """a, its coordinates of `whole` at the nearest whole number (halves to the even one), clipped to low and high."""

    whole: Bool[np.ndarray, "m"]
    low: Vector
    high: Vector

    @property
    def size(self) -> int:
        return len(self.low)


@final
@dataclass(frozen=True, eq=False)
class Stretch(AbstractStage):
    """u in the unit box onto the changes Δ that are admissible at z, the second source: low + (u + 1) (high − low) / 2,

    low = clip(least − u₋, −rate, rate), high = clip(most − u₋, −rate, rate), u₋ = center + half_width ∘ z[first …] the
    action before. Source: `actions.increments.Increments`.
    """

    rate: Vector
    least: Vector
    most: Vector
    center: Vector
    half_width: Vector
    first: int

    @property
    def size(self) -> int:
        return len(self.rate)


@final
@dataclass(frozen=True, eq=False)
class NearestPoint(AbstractStage):
    """The point of {x : floor ≤ x ≤ ceiling, matrix · x ≤ limits} next to a, in double precision, whatever a is.

    Where matrix · a ≤ limits and floor ≤ a ≤ ceiling hold already, a itself. Else, in `units`, a fixed number of steps
    of an interior-point method and of Newton's on the rows that bind, as `actions.projection.Dual` takes them, then a
    pull towards the inside that keeps half the margin (`numeric.nearest_point`).
    """

    matrix: Matrix
    limits: Vector
    floor: Vector
    ceiling: Vector
    center: Vector
    units: InUnits

    @property
    def size(self) -> int:
        return len(self.floor)


@final
@dataclass(frozen=True, eq=False)
class Expect(AbstractStage):
    """Σ_i softmax(x)_i values_i, the mean of a distribution; in solvers alone, in double precision."""

    values: Vector

    @property
    def size(self) -> int:
        return 1


class AbstractSolver(AbstractStage):
    """Looks for an action of a higher value: the sources are s and a_0; of s alone, a_0 is the best of `starts`.

    It compares values, so that all of its program is in double precision: single would decide by its rounding.
    """

    starts: Matrix
    steps: int
    trust: float
    """How far from a_0 it goes, in half-widths."""
    low: Vector
    high: Vector
    changes: Stretch | None
    """Where actions are changes: the box is what these allow at s, which holds the action before as it is."""


@final
@dataclass(frozen=True, eq=False)
class Ascend(AbstractSolver):
    """a with q(s, a) ≥ q(s, a_0) and |a − a_0| ≤ trust · half_width, by `steps` projected gradient steps from a_0.

        d = ∇q(a) ∘ unit / max |∇q(a) ∘ unit|
        a' = Π(a + step · unit ∘ d), pulled towards a_0 where it is farther than `trust`
        q(a') > q(a) + 1e-10 (1 + |q(a)|): a ← a', step ← 2 step; else step ← step / 4

    q = min_j q_j is the least of `critics`, each the lines from [s, a in the unit box] to one number; Π is the point of
    `nearest`, or of the box of low and high. `unit` holds the half-widths, or where Π mixes coordinates the greatest of
    them m times. Source: `maximize.local.refine`.
    """

    critics: tuple[tuple[ProgramLine, ...], ...]
    obs_size: int
    """Of s."""
    starts: Matrix
    steps: int
    trust: float
    center: Vector
    half_width: Vector
    unit: Vector
    low: Vector
    high: Vector
    changes: Stretch | None = None
    nearest: NearestPoint | None = None

    @property
    def size(self) -> int:
        return len(self.low)


@final
@dataclass(frozen=True, eq=False)
class SearchTrees(AbstractSolver):
    """a with q(s, a) ≥ q(s, a_0) and |a − a_0| ≤ trust · half_width, by `steps` looks along one axis after another.

        q(s, a) = (1/T) Σ_t value(leaf of tree t that [s, a] falls into)
        look k: axis i = k mod m, radius r = trust / 4^⌊k/m⌋ half-widths
        the points a_i + r (2j − 15) / 15, j = 0 … 15, in the box and within trust of a_0
        the first best of them is a where its value is higher than that of a

    Points are in single precision, and so is what trees compare: `approx.trees.TreeCritic` says how they are walked.
    """

    feature: Int[np.ndarray, "n"]
    threshold: Vector
    child: Int[np.ndarray, "n"]
    value: Vector
    trees: int
    depth: int
    obs_size: int
    """Of s."""
    starts: Matrix
    steps: int
    trust: float
    half_width: Vector
    low: Vector
    high: Vector
    changes: Stretch | None = None

    @property
    def size(self) -> int:
        return len(self.low)

    @property
    def looks(self) -> list[tuple[int, float]]:
        """(axis, radius in units) of each look."""
        axes = [k % self.size for k in range(self.steps)]
        return [
            (axis, self.trust * 0.25 ** (k // self.size) * float(self.half_width[axis])) for k, axis in enumerate(axes)
        ]


LOOK_POINTS = 16
"""Points of a look of `SearchTrees`."""


class ProgramLine(NamedTuple):
    """A stage, and the numbers of the values that it reads; value 0 is what the controller sees, line i makes i + 1."""

    stage: AbstractStage
    sources: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Edges:
    """Where the status LIMITED begins: a row of matrix · a ≥ bound, or, with `changes`, an end of what they allow."""

    matrix: Matrix
    bound: Vector
    near: Vector
    """How near to an end of the changes is at it."""
    changes: Stretch | None


@final
@dataclass(frozen=True, eq=False)
class KnownChange:
    """d_2 = max_i max(|ŷ_i − (W φ(x̂))_i|, 0.001) / σ_ji, of y, the coordinates `newest` of z, and x, the past: the
    coordinates `own` of z, or, where there are none, the observation and the action of the sample before.

    φ(x̂) = [1, x̂], then x̂_i x̂_k for i ≤ k where W has columns for them. Source: `acting.familiar.Change`.
    """

    past_shift: Vector
    past_scale: Vector
    newest: Int[np.ndarray, "y"]
    newest_shift: Vector
    newest_scale: Vector
    weights: Matrix
    errors: Matrix
    """σ [landmarks, y]."""
    own: Int[np.ndarray, "x"]
    history: int
    """Samples before the first at which it is judged."""


def runs_of_neighbours(places: Int[np.ndarray, "n"]) -> Iterator[slice]:
    """Where neighbours stand in a row: slices of `places`, in order, in each of which they rise by one."""
    ends = (np.flatnonzero(np.diff(places) != 1) + 1).tolist()
    for first, last in zip([0, *ends], [*ends, len(places)], strict=True):
        yield slice(first, last)


class Most(NamedTuple):
    """Not strange is d_1 up to `alone`, or, where a change is judged, d_1 up to `place` and d_2 up to `change`."""

    alone: float
    place: float
    change: float


@final
@dataclass(frozen=True, eq=False)
class KnownWindow:
    """The last `samples` samples together, once there are so many since one was left out.

    Of each is kept [−log max(p(d_1), 1e-12), e], e the errors of its change in usual errors, cut at ±5, or 0 where none
    is judged; p is linear between `distances`, 1 below them. They are strange where mean_1 > most_1, max_c mean e_c² >
    most_2 or max_c |mean e_c| > most_3, or where the newest is farther than `alone`. Source: `acting.recent.Recent`.
    """

    samples: int
    distances: Float[np.ndarray, "q"]
    shares: Float[np.ndarray, "q"]
    most: tuple[float, float, float]
    alone: Most


@final
@dataclass(frozen=True, eq=False)
class GuardStage:
    """z is strange where d_1 = min_j ‖ẑ − c_j‖ > `most`, or, where a change is judged, d_1 or d_2 > theirs.

    x̂ = clip((x − shift) / scale, ±100), in double precision: that is `familiar(z) < threshold` of
    `acting.familiar.Familiarity`, solved for the distances. There `relief` acts, through `lines`, which make it
    admissible.
    """

    shift: Vector
    scale: Vector
    landmarks: Matrix
    most: Most
    change: KnownChange | None
    relief: AbstractRelief
    lines: tuple[ProgramLine, ...]
    window: KnownWindow | None = None

    @property
    def numbers(self) -> int:
        """What it holds, in numbers of single precision."""
        change = self.change
        own = self.landmarks.size + 2 * len(self.shift) + 2 * self.kept
        if change is None:
            return own
        return own + change.weights.size + change.errors.size + 2 * (len(change.past_shift) + len(change.newest))

    @property
    def row(self) -> int:
        """Numbers that are kept of a sample for a window."""
        return 1 + (0 if self.change is None else len(self.change.newest))

    @property
    def kept(self) -> int:
        """Numbers that a window keeps."""
        return 0 if self.window is None else self.window.samples * self.row

    @property
    def counted(self) -> int:
        """Samples beyond which it need not count them."""
        needed = [0 if self.change is None else self.change.history, 0 if self.window is None else self.window.samples]
        return max(needed)

    @property
    def reads_before(self) -> bool:
        """Whether it reads the observation of the sample before."""
        return self.change is not None and not len(self.change.own)


class AbstractRelief(abc.ABC):
    """What acts where z is strange."""

    @property
    @abc.abstractmethod
    def size(self) -> int | None:
        """The actions that it gives; None: as many as there are."""


@final
@dataclass(frozen=True)
class Kept(AbstractRelief):
    """u₋, the action before, also where there is no action at all."""

    @property
    def size(self) -> None:
        return None


@final
@dataclass(frozen=True, eq=False)
class Straight(AbstractRelief):
    """clip(bias + y · weight, low, high), in double precision: a constant, or a linear controller."""

    weight: Float[np.ndarray, "o m"]
    bias: Float[np.ndarray, "m"]
    low: Float[np.ndarray, "m"]
    high: Float[np.ndarray, "m"]

    @property
    def size(self) -> int:
        return len(self.bias)


@final
@dataclass(frozen=True, eq=False)
class Moved(AbstractRelief):
    """u₋ + change."""

    change: Vector

    @property
    def size(self) -> int:
        return len(self.change)


class PidLoop(NamedTuple):
    """`baselines.PID`, in double precision, which drives one action.

    v = bias + kp (b r − y) + i + d, d = keep d₋ − rate (y − y₋), i = i₋ + gain (r − y), u = clip(v, low, high). Where v
    is outside, i = i₋ as long as the error pushes it further out, or, with `track` > 0, i += track (u − v).
    """

    driven: int
    measured: int
    set_point: int
    """Where in y the set-point is; -1: it is `target`."""
    target: float
    kp: float
    weight: float
    gain: float
    keep: float
    rate: float
    bias: float
    low: float
    high: float
    track: float


LOOP_MEMORY = ("integral", "derivative", "measured")
"""What each loop keeps."""


@final
@dataclass(frozen=True, eq=False)
class PidLoops(AbstractRelief):
    """`hold`, the driven actions replaced by those of the loops."""

    loops: tuple[PidLoop, ...]
    hold: Float[np.ndarray, "m"]

    @property
    def size(self) -> int:
        return len(self.hold)


@final
@dataclass(frozen=True, eq=False)
class ControlProgram:
    """y → (u, status), one sample after another, as `acting.loop.SafeLoop` has it.

    1. A y that is not finite gives the fallback.
    2. z = `memory` of the last z, the last u and y; without a memory z = y.
    3. Where the `guard` finds z strange, its relief is u.
    4. Else `lines`, in order, from z to the action a; one that is not finite gives the fallback.
    5. u = a. A program that `holds` gives u₋ in place of the fallback.
    6. Where the memory counts changes, a and the fallback are added to u₋, and whoever acted,
       u = clip(clip(u, u₋ ± rate), low, high).
    7. The memory keeps z and u; of a sample that gave the fallback, only u.

    Numbers are float32, and float64 where a stage says so or `in_double`.
    """

    obs_size: int
    action_size: int
    memory: AugmentedState | None
    lines: tuple[ProgramLine, ...]
    edges: Edges | None
    """None: nothing but a constant box limits actions."""
    fallback: Vector
    start: Vector
    """u before the first sample."""
    low: Vector
    high: Vector
    """The outer box of u."""
    guard: GuardStage | None = None
    holds: bool = False
    """Whether the fallback is the action before."""

    @property
    def in_double(self) -> bool:
        """Whether all values of its lines are in double precision."""
        return any(isinstance(line.stage, AbstractSolver) for line in self.lines)

    @property
    def width(self) -> Vector:
        """high − low of what moves without a jump; 0 of whole numbers."""
        rounded = [line.stage.whole for line in self.lines if isinstance(line.stage, RoundWhole)]
        return np.where(rounded[-1] if rounded else False, 0, self.high - self.low).astype(np.float32)

    @property
    def remembers(self) -> bool:
        """Whether a sample depends on those before it."""
        return self.memory is not None or self.guard is not None or self.holds

    @property
    def seen(self) -> int:
        """The numbers in z."""
        return self.obs_size if self.memory is None else self.memory.size

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the values, z first."""
        return self.seen, *(line.stage.size for line in self.lines)

    @property
    def rate(self) -> Vector | None:
        """The most that u changes in a sample, where actions are changes of the action before; None elsewhere."""
        memory = self.memory
        return np.asarray(memory.rate, np.float32) if memory is not None and memory.augmentation.increments else None
