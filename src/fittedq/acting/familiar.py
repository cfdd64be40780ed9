"""How familiar what is seen is, by the data that were learned from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float, Int

from fittedq.acting.recent import Recent, Seen, Trail, linked_rows
from fittedq.acting.shares import Shares
from fittedq.control.state import AugmentedState
from fittedq.errors import UserError, in_one_line
from fittedq.types import Transition

ROWS = 5_000
"""Rows that are looked at."""
LEAST_ROWS = 100
"""Of fewer rows no share is told."""
LANDMARKS = 256
STRETCHES = 10
"""Of rows in order, each held out once: what is calibrated was seen by neither landmarks nor fits."""
PARTS_FITTED = 5
"""Of rows, each left out of one fit, by which its errors are told."""
MOST_FEATURES, ROWS_A_FEATURE = 400, 10
MOST_DEVIATIONS = 100.0
"""Deviations at which every number is cut, so that no square overflows."""
LEAST_ERROR = 1e-3
"""In deviations: smaller errors, as those of rounding in a plant without noise, are as good as none."""
PRIOR_ROWS = 5
"""What the errors of all rows count beside those near one landmark."""
MOST_WINDOW = 1_000
TENSORS = "familiarity/"
"""Of its tensors in an agent's files."""


@final
@dataclass(frozen=True)
class Units:
    """x̂ = clip((x − shift) / scale, ±100) [b, n]. A constant column has a hundredth of its size as its scale."""

    shift: Float[np.ndarray, "n"]
    scale: Float[np.ndarray, "n"]

    @staticmethod
    def of(values: Float[np.ndarray, "N n"]) -> Units:
        shift, scale = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        still = scale <= 1e-6 * np.maximum(np.abs(shift), 1.0)
        scale = np.where(still, np.maximum(0.01 * np.abs(shift), 1e-3), scale)
        return Units(shift.astype(np.float32), scale.astype(np.float32))

    def __call__(self, values: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "b n"]:
        with np.errstate(over="ignore"):
            return np.clip(
                (np.asarray(values, np.float64) - self.shift) / self.scale, -MOST_DEVIATIONS, MOST_DEVIATIONS
            )


@final
@dataclass(frozen=True)
class Place:
    """d(s) = min_j ‖ŝ − c_j‖, c_j the landmarks: rows of the data in deviations."""

    units: Units
    landmarks: Float[np.ndarray, "c s"]
    shares: Shares

    @staticmethod
    def of(obs: Float[np.ndarray, "N s"]) -> Place:
        units = Units.of(obs)
        seen = units(obs)
        distance = _held_out(seen, seen)
        return Place(units, seen[_chosen(len(seen))].astype(np.float32), Shares.of(distance))

    @property
    def rows(self) -> Float[np.ndarray, "c s"]:
        """The landmarks in the units of s."""
        return self.landmarks * self.units.scale + self.units.shift

    def held_out(self, obs: Float[np.ndarray, "N s"], after: Float[np.ndarray, "N s"]) -> Float[np.ndarray, "N"]:
        """p of each `after` by the landmarks among `obs`, the rows that this was made of, without its own stretch."""
        return self.shares(_held_out(self.units(obs), self.units(after)))

    def __call__(self, obs: Float[np.ndarray, "b s"]) -> tuple[Float[np.ndarray, "b"], Int[np.ndarray, "b"]]:
        """(p, the landmark that is nearest)."""
        distance, nearest = _nearest(self.units(obs), self.landmarks)
        return self.shares(distance), nearest


@final
@dataclass(frozen=True)
class Change:
    """d = max_i max(|ŷ_i − (W φ(x̂))_i|, 0.001) / σ_ji: how far y_t is from what x, the past, led one to expect.

    φ(x̂) = [1, x̂], then x̂_i x̂_j for i ≤ j where `weights` has columns for them. y_t are some coordinates of the newest
    observation, and σ_j their usual errors where landmark j is the nearest: a contact errs more than free flight.
    """

    past: Units
    newest: Units
    weights: Float[np.ndarray, "y f"]
    scale: Float[np.ndarray, "c y"]
    shares: Shares

    @staticmethod
    def of(
        past: Float[np.ndarray, "N x"], newest: Float[np.ndarray, "N y"], nearest: Int[np.ndarray, "N"], landmarks: int
    ) -> tuple[Change, Float[np.ndarray, "N y"]] | None:
        """Fitted by least squares, quadratic where there are rows enough for it; None where there are too few. With it
        each row's errors by the fit of others, in the usual ones."""
        units, of_newest = Units.of(past), Units.of(newest)
        x, y, size = units(past), of_newest(newest), past.shape[1]
        quadratic = 1 + size + size * (size + 1) // 2
        if quadratic > min(MOST_FEATURES, len(x) // ROWS_A_FEATURE):
            if (1 + size) * ROWS_A_FEATURE > len(x):
                return None
            quadratic = 1 + size
        weights, error = _fitted(_features(x, quadratic), y)
        scale, own = _usual(_size(error), nearest, landmarks)
        shares = Shares.of((_size(error) / own).max(axis=1))
        return Change(units, of_newest, weights.T.astype(np.float32), scale.astype(np.float32), shares), error / own

    def __call__(
        self, past: Float[np.ndarray, "b x"], newest: Float[np.ndarray, "b y"], nearest: Int[np.ndarray, "b"]
    ) -> tuple[Float[np.ndarray, "b"], Float[np.ndarray, "b y"]]:
        """(p, errors in the usual ones)."""
        expected = _features(self.past(past), self.weights.shape[1]) @ self.weights.T.astype(np.float64)
        error, usual = self.newest(newest) - expected, self.scale[nearest]
        return self.shares((_size(error) / usual).max(axis=1)), error / usual


@final
@dataclass(frozen=True)
class Familiarity:
    """familiar = min(1, K min_k p_k) in [0, 1], p_1 of the place (`Place`) and p_2 of the change (`Change`), K of which
    can be judged.

    At most a share α of the rows that were held out are below α, whatever the dependence of the p_k (Bonferroni's
    inequality). `newest` are the coordinates of s that a change is judged of. Where s holds its own past, `own` are the
    coordinates of that; else the past is [y_{t−1}, u_{t−1}], the observation and the executed action of the sample
    before, and the change is judged where it is given.
    """

    place: Place
    change: Change | None
    newest: Int[np.ndarray, "y"]
    own: Int[np.ndarray, "x"]
    """Empty where s holds no past."""
    recent: Recent | None = None
    """What judges the last samples together; None where nothing does."""

    @staticmethod
    def of(rows: Transition, state: AugmentedState | None = None, window: int = 0) -> Familiarity:
        """Of transitions in order, as the agent sees them, in their own units; a UserError where they are too few.

        With a `window` so many samples are judged together, too.
        """
        obs, action, after = (np.asarray(part, np.float32) for part in (rows.obs, rows.action, rows.next_obs))
        if len(obs) < LEAST_ROWS:
            raise UserError(f"familiarity: found {len(obs)} rows, expected at least {LEAST_ROWS} to tell shares of.")
        size = obs.shape[1]
        newest, own, known = np.arange(size), np.zeros(0, int), obs
        if state is not None:
            newest, own = state.measured, state.earlier
            known, action = obs[:, : state.obs_size], np.asarray(state.executed(obs, action))
        past = after[:, own] if len(own) else np.concatenate([known, action], axis=1)
        place, fitted = Place.of(obs), None
        if len(newest):
            fitted = Change.of(past, after[:, newest], place(after)[1], len(place.landmarks))
        change, error = (None, np.zeros((len(obs), 0))) if fitted is None else fitted
        known = Familiarity(place, change, newest, own)
        if not window:
            return known
        shares = [place.held_out(obs, after)]
        if change is not None:
            shares.append(change.shares(np.abs(error).max(axis=1)))
        seen = Seen(_together(shares), shares[0], error)
        recent = Recent.of(seen.row, linked_rows(obs, after), window)
        if recent is None:
            raise UserError(
                f"found no {window} rows that follow one another, by which so many samples are judged together; give a "
                "log of longer episodes, or judge fewer.",
                argument="window",
            )
        return replace(known, recent=recent)

    def __call__(
        self, obs: Float[np.ndarray, "b s"], past: Float[np.ndarray, "b x"] | None = None
    ) -> Float[np.ndarray, "b"]:
        """familiar(s) of finite s; the change is judged where the `past` is given."""
        return self.seen(obs, past).familiar

    def seen(self, obs: Float[np.ndarray, "b s"], past: Float[np.ndarray, "b x"] | None = None) -> Seen:
        """familiar(s), and what it was made of."""
        place, nearest = self.place(obs)
        shares, error = [place], np.zeros((len(obs), 0 if self.change is None else len(self.newest)))
        if self.change is not None and past is not None:
            share, error = self.change(past, obs[:, self.newest], nearest)
            shares.append(share)
        return Seen(_together(shares), place, error)

    def after(self, seen: Seen, trail: Trail | None) -> tuple[Float[np.ndarray, "b"], Trail | None]:
        """(familiar, what is kept of the samples) at the next of b samples side by side."""
        return (seen.familiar, None) if self.recent is None else self.recent.after(seen, trail)

    def past(
        self, obs: Float[np.ndarray, "b s"], before: Float[np.ndarray, "b yu"] | None = None
    ) -> Float[np.ndarray, "b x"] | None:
        """What the change to s is judged by: the past that s holds, else `before`, [y_{t−1}, u_{t−1}]."""
        return obs[:, self.own] if len(self.own) else before

    @property
    def reads_before(self) -> bool:
        """Whether it can be given the sample before."""
        return self.change is not None and not len(self.own)

    # ------------------------------------------------------------------ files

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it by name, from which `restored` makes it again."""
        return dict(_named(TENSORS, self))

    @staticmethod
    def restored(arrays: Mapping[str, np.ndarray], obs_size: int, where: str) -> Familiarity | None:
        """What `arrays` was given by, among the tensors of an agent; None where there is none. A UserError where its
        parts do not fit together."""
        if not any(name.startswith(TENSORS) for name in arrays):
            return None

        def units(name: str) -> Units:
            return Units(arrays[f"{TENSORS}{name}/shift"], arrays[f"{TENSORS}{name}/scale"])

        def shares(name: str) -> Shares:
            return Shares(arrays[f"{TENSORS}{name}/distances"], arrays[f"{TENSORS}{name}/shares"])

        try:
            place, change = (
                Place(units("place/units"), arrays[f"{TENSORS}place/landmarks"], shares("place/shares")),
                None,
            )
            if f"{TENSORS}change/weights" in arrays:
                weights, scale = (arrays[f"{TENSORS}change/{name}"] for name in ("weights", "scale"))
                change = Change(units("change/past"), units("change/newest"), weights, scale, shares("change/shares"))
                if scale.shape != (len(place.landmarks), len(weights)):
                    raise ValueError(f"errors of shape {scale.shape}")
            recent = None
            if f"{TENSORS}recent/samples" in arrays:
                near, size, side, joint = (shares(f"recent/{name}") for name in ("place", "size", "side", "joint"))
                recent = Recent(near, size, side, joint, arrays[f"{TENSORS}recent/samples"])
                if not 1 <= int(recent.samples) <= MOST_WINDOW:
                    raise ValueError(f"a window of {int(recent.samples)} samples")
            found = Familiarity(place, change, arrays[f"{TENSORS}newest"], arrays[f"{TENSORS}own"], recent)
            still = np.zeros((1, obs_size), np.float32)
            before = None if change is None else np.zeros((1, len(change.past.shift)), np.float32)
            seen = found.seen(still, found.past(still, before))
            windows = seen.familiar if recent is None else recent(seen.row[:, None])
            if not (np.isfinite(seen.familiar).all() and np.isfinite(windows).all()):
                raise ValueError("it holds numbers that are none")
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise UserError(
                f"{where}: what it says of the data that it learned from does not fit together "
                f"({in_one_line(error)}); it is damaged."
            ) from None
        return found


def _named(name: str, part: object) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays in a part, by the names of its fields."""
    if isinstance(part, np.ndarray):
        yield name.removesuffix("/"), part
    elif part is not None:
        for field, value in vars(part).items():
            yield from _named(f"{name}{field}/", value)


def stretches(count: int) -> Int[np.ndarray, "N"]:
    """Which of `STRETCHES` each of so many rows in order lies in."""
    return np.arange(count) * STRETCHES // count


def _together(shares: list[Float[np.ndarray, "b"]]) -> Float[np.ndarray, "b"]:
    """min(1, K min_k p_k)."""
    return np.minimum(1.0, len(shares) * np.min(shares, axis=0))


def _chosen(count: int) -> Int[np.ndarray, "c"]:
    """Which of so many rows are landmarks."""
    return np.linspace(0, count - 1, min(LANDMARKS, count)).astype(int)


def _held_out(known: Float[np.ndarray, "N s"], seen: Float[np.ndarray, "N s"]) -> Float[np.ndarray, "N"]:
    """How far each of `seen` is from the landmarks among `known` that lie in other stretches."""
    chosen, stretch, distance = _chosen(len(known)), stretches(len(known)), np.empty(len(seen))
    for held_out in range(STRETCHES):
        of, others = stretch == held_out, chosen[stretch[chosen] != held_out]
        distance[of] = _nearest(seen[of], known[others])[0]
    return distance


def _nearest(
    seen: Float[np.ndarray, "b s"], landmarks: Float[np.ndarray, "c s"]
) -> tuple[Float[np.ndarray, "b"], Int[np.ndarray, "b"]]:
    """(min_j ‖x − c_j‖, that j, the first where some are the same), some thousand rows at a time."""
    c = landmarks.astype(np.float64)
    lengths, distances, places = (c**2).sum(axis=1), [], []
    for part in np.array_split(seen, max(1, len(seen) // 2_000)):
        squares = lengths - 2 * part @ c.T
        least, own = squares.min(axis=1), (part**2).sum(axis=1)
        # A product of matrices rounds equal landmarks differently: which of them is nearest is not left to that.
        rounding = 1e-12 * (lengths.max() + own)
        distances.append(np.sqrt(np.maximum(least + own, 0.0)))
        places.append((squares <= (least + rounding)[:, None]).argmax(axis=1))
    return np.concatenate(distances), np.concatenate(places)


def _fitted(
    features: Float[np.ndarray, "N f"], y: Float[np.ndarray, "N y"]
) -> tuple[Float[np.ndarray, "f y"], Float[np.ndarray, "N y"]]:
    """(W of all rows, each row's error by the W of the others)."""
    fold = stretches(len(y)) % PARTS_FITTED
    sums = [_sums(features[fold == one], y[fold == one]) for one in range(PARTS_FITTED)]
    gram, moment = (np.sum(parts, axis=0) for parts in zip(*sums, strict=True))
    error = np.empty_like(y)
    for one, (own_gram, own_moment) in enumerate(sums):
        weights = _solved(gram - own_gram, moment - own_moment)
        error[fold == one] = y[fold == one] - features[fold == one] @ weights
    return _solved(gram, moment), error


def _usual(
    error: Float[np.ndarray, "N y"], nearest: Int[np.ndarray, "N"], landmarks: int
) -> tuple[Float[np.ndarray, "c y"], Float[np.ndarray, "N y"]]:
    """(σ_ji, σ at each row without the errors of its own stretch): σ_ji² = (5 σ_i² + Σ_rows at j e_i²) / (5 + their
    number)."""
    squares, stretch = error**2, stretches(len(error))
    general = PRIOR_ROWS * squares.mean(axis=0)
    cell = nearest * STRETCHES + stretch
    count = np.bincount(cell, minlength=landmarks * STRETCHES).reshape(landmarks, STRETCHES, 1)
    sums = np.stack([np.bincount(cell, one, landmarks * STRETCHES) for one in squares.T], axis=1)
    sums = sums.reshape(landmarks, STRETCHES, -1)
    scale = np.sqrt((general + sums.sum(axis=1)) / (PRIOR_ROWS + count.sum(axis=1)))
    others, number = (
        sums.sum(axis=1)[nearest] - sums[nearest, stretch],
        count.sum(axis=1)[nearest] - count[nearest, stretch],
    )
    return scale, np.sqrt((general + others) / (PRIOR_ROWS + number))


def _features(x: Float[np.ndarray, "b x"], count: int) -> Float[np.ndarray, "b f"]:
    """[1, x̂], and the products of two where `count` has room for them."""
    linear = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    if count == linear.shape[1]:
        return linear
    first, second = np.triu_indices(x.shape[1])
    return np.concatenate([linear, x[:, first] * x[:, second]], axis=1)


def _size(error: Float[np.ndarray, "b y"]) -> Float[np.ndarray, "b y"]:
    return np.maximum(np.abs(error), LEAST_ERROR)


def _sums(
    features: Float[np.ndarray, "b f"], y: Float[np.ndarray, "b y"]
) -> tuple[Float[np.ndarray, "f f"], Float[np.ndarray, "f y"]]:
    return features.T @ features, features.T @ y


def _solved(gram: Float[np.ndarray, "f f"], moment: Float[np.ndarray, "f y"]) -> Float[np.ndarray, "f y"]:
    ridge = 1e-8 * max(float(np.trace(gram)), 1e-30)
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), moment)
