"""Where the numbers of an observation lie in the flat vector that networks read, and back: a description of spaces.

A layout is what is needed of a Gymnasium space to read what an environment hands out. It is plain data, so an agent
takes it along in its manifest and acts later without the environment.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from jaxtyping import Float

from fittedq.arrays import all_finite
from fittedq.errors import UserError, in_one_line
from fittedq.files import Json

MOST_NUMBERS = 2**31
"""Numbers in an observation or action that a description may declare."""


def numbers(value: object, name: str) -> np.ndarray:
    """`value` as an array of real numbers; what is masked is NaN. A UserError for None, words, objects and ℂ."""
    try:
        array = np.asarray(_unmasked(value))
    except Exception:
        # An object's own `__array__` may raise anything, and a list may hold itself.
        raise UserError(f"{name}: found {_short(value)}, expected an array of numbers.") from None
    if array.dtype.kind in "fiub":
        return array
    if array.dtype.kind == "V" and array.dtype.names is None:
        # bfloat16 and its kin, which NumPy does not know by kind.
        try:
            return array.astype(np.float32)
        except (TypeError, ValueError):
            pass
    raise UserError(f"{name}: found {_short(value)}, expected real numbers, not {array.dtype}.")


def _unmasked(value: object) -> object:
    """NaN for what is masked, which NumPy would show as the number that lies under it."""
    if isinstance(value, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(value), np.nan, np.ma.getdata(value))
    if isinstance(value, list | tuple) and any(isinstance(part, list | tuple | np.ma.MaskedArray) for part in value):
        return [_unmasked(part) for part in value]
    return value


def single_precision(array: np.ndarray) -> Float[np.ndarray, "..."]:
    """`array` in float32; what is beyond its range becomes infinite."""
    if array.dtype == np.float32:
        return array
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


class AbstractLayout(abc.ABC):
    """How one observation becomes `size` numbers, and a batch of b of them an array [b, size]."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Numbers in the flat vector."""

    @abc.abstractmethod
    def names(self, name: str) -> Iterator[str]:
        """What each of them is called, where the whole is called `name`."""

    @abc.abstractmethod
    def read(self, value: object, name: str, batches: bool = True) -> tuple[Float[np.ndarray, "b s"], bool]:
        """(rows, whether `value` is one and not a batch) of a value in the environment's own shape, else UserError."""

    @abc.abstractmethod
    def read_flat(self, value: object, name: str) -> tuple[Float[np.ndarray, "b s"], bool]:
        """The same of a value that may be flat already, [s] or [b, s]. Where both fit, one goes before a batch."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """The layout as JSON, for `layout_of`."""


@dataclass(frozen=True)
class Numbers(AbstractLayout):
    """An array of `shape`, row by row: Box and MultiBinary."""

    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def names(self, name: str) -> Iterator[str]:
        for index in itertools.product(*map(range, self.shape)):
            yield f"{name}[{', '.join(map(str, index))}]" if index else name

    def read(self, value: object, name: str, batches: bool = True) -> tuple[Float[np.ndarray, "b s"], bool]:
        array = numbers(value, name)
        single = _is_one(array, (self.shape,), name, batches)
        return single_precision(array).reshape(1 if single else len(array), self.size), single

    def read_flat(self, value: object, name: str) -> tuple[Float[np.ndarray, "b s"], bool]:
        array = numbers(value, name)
        single = _is_one(array, (self.shape, (self.size,)), name)
        return single_precision(array).reshape(1 if single else len(array), self.size), single

    def describe(self) -> dict[str, Any]:
        return {"kind": "numbers", "shape": list(self.shape)}


@dataclass(frozen=True)
class Choices(AbstractLayout):
    """Whole numbers start ≤ x < start + count in an array of `shape`, each as a one-hot: Discrete, MultiDiscrete."""

    shape: tuple[int, ...]
    counts: tuple[int, ...]
    starts: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.counts)

    def names(self, name: str) -> Iterator[str]:
        for each, count, start in zip(Numbers(self.shape).names(name), self.counts, self.starts, strict=True):
            yield from (f"{each} = {start + choice}" for choice in range(count))

    def read(self, value: object, name: str, batches: bool = True) -> tuple[Float[np.ndarray, "b s"], bool]:
        array = numbers(value, name)
        single = _is_one(array, (self.shape,), name, batches)
        rows = array.reshape(1 if single else len(array), len(self.counts))
        choice = rows - np.asarray(self.starts)
        wrong = ~((choice >= 0) & (choice < np.asarray(self.counts)) & (choice == np.floor(choice)))
        if wrong.any():
            row, which = np.argwhere(wrong)[0]
            first, count = self.starts[which], self.counts[which]
            each = next(itertools.islice(Numbers(self.shape).names(name), int(which), None))
            raise UserError(
                f"{each}: found {rows[row, which]}, expected a whole number from {first} to {first + count - 1}."
            )
        hot = np.zeros((len(rows), self.size), np.float32)
        offsets = np.cumsum((0, *self.counts[:-1]))
        np.put_along_axis(hot, offsets + choice.astype(np.int64), 1.0, axis=1)
        return hot, single

    def read_flat(self, value: object, name: str) -> tuple[Float[np.ndarray, "b s"], bool]:
        # Whole numbers are choices; a flat vector of ones and zeros has floats.
        array = numbers(value, name)
        if array.dtype.kind == "f" and array.ndim in (1, 2) and array.shape[-1] == self.size:
            return Numbers((self.size,)).read(array, name)
        return self.read(array, name)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "choices",
            "shape": list(self.shape),
            "counts": list(self.counts),
            "starts": list(self.starts),
        }


@dataclass(frozen=True)
class Parts(AbstractLayout):
    """Several layouts one after another: a Dict by its keys, or a Tuple, whose keys are None."""

    parts: tuple[AbstractLayout, ...]
    keys: tuple[str, ...] | None = None

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def names(self, name: str) -> Iterator[str]:
        for key, part in self._named():
            yield from part.names(f"{name}[{key!r}]")

    def read(self, value: object, name: str, batches: bool = True) -> tuple[Float[np.ndarray, "b s"], bool]:
        read = [
            part.read(inner, f"{name}[{key!r}]", batches)
            for (key, part), inner in zip(self._named(), self._taken_apart(value, name), strict=True)
        ]
        if len({(len(rows), single) for rows, single in read}) > 1:
            lengths = ", ".join("one" if single else f"{len(rows)}" for rows, single in read)
            raise UserError(f"{name}: its parts hold {lengths} observations; give the same number in each.")
        return np.concatenate([rows for rows, _ in read], axis=1), read[0][1]

    def read_flat(self, value: object, name: str) -> tuple[Float[np.ndarray, "b s"], bool]:
        if isinstance(value, Mapping if self.keys is not None else tuple):
            return self.read(value, name)
        try:
            return Numbers((self.size,)).read(value, name)
        except UserError as error:
            raise UserError(f"{error} It may also be {self._kind()}, as the environment gives it.") from None

    def _named(self) -> Iterator[tuple[str | int, AbstractLayout]]:
        return zip(range(len(self.parts)) if self.keys is None else self.keys, self.parts, strict=True)

    def _kind(self) -> str:
        if self.keys is None:
            return f"a tuple of {len(self.parts)}"
        return f"a dictionary with the keys {', '.join(map(repr, self.keys))}"

    def _taken_apart(self, value: object, name: str) -> list[Any]:
        if self.keys is None:
            if isinstance(value, tuple | list) and len(value) == len(self.parts):
                return list(value)
        elif isinstance(value, Mapping):
            try:
                missing = [key for key in self.keys if key not in value]
                parts = [value[key] for key in self.keys if key not in missing]
            except Exception as error:
                raise UserError(
                    f"{name}: reading its keys raised {type(error).__name__}: {in_one_line(error)}; expected "
                    f"{self._kind()}."
                ) from error
            if not missing:
                return parts
            raise UserError(f"{name}: the key {missing[0]!r} is missing; expected {self._kind()}.")
        raise UserError(f"{name}: found {_short(value)}, expected {self._kind()}.")

    def describe(self) -> dict[str, Any]:
        keys = None if self.keys is None else list(self.keys)
        return {"kind": "parts", "keys": keys, "parts": [part.describe() for part in self.parts]}


@dataclass(frozen=True)
class Spaces:
    """What an environment hands out and takes: the layout of its observations, shape and dtype of its actions."""

    observation: AbstractLayout
    action: Numbers
    action_dtype: str = "float32"

    def shaped(self, action: Float[np.ndarray, "*b m"]) -> np.ndarray:
        """Flat actions [m] or [b, m] in the environment's shape and dtype; a copy."""
        return action.astype(self.action_dtype).reshape((*action.shape[:-1], *self.action.shape))

    def describe(self) -> dict[str, Any]:
        """The description as JSON, for `spaces_of`."""
        return {
            "observation": self.observation.describe(),
            "action": self.action.describe(),
            "action_dtype": self.action_dtype,
        }

    @staticmethod
    def flat(obs_size: int, action_size: int) -> Spaces:
        """Vectors of float32, where nothing else is known."""
        return Spaces(Numbers((obs_size,)), Numbers((action_size,)))


def spaces_of(description: Json) -> Spaces:
    """The spaces of `Spaces.describe`, or a UserError."""
    try:
        observation, action = layout_of(description["observation"]), layout_of(description["action"])
        dtype = np.dtype(description["action_dtype"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"spaces: found a description that cannot be read ({error!r}).") from None
    if not isinstance(action, Numbers) or dtype.kind != "f":
        raise UserError(f"spaces: found actions of {dtype} in {action}, expected an array of floats.")
    return Spaces(observation, action, dtype.name)


def layout_of(description: Mapping[str, Any]) -> AbstractLayout:
    """The layout of `AbstractLayout.describe`."""
    if description["kind"] == "parts":
        keys = description["keys"]
        layout: AbstractLayout = Parts(
            tuple(layout_of(part) for part in description["parts"]),
            None if keys is None else tuple(str(key) for key in keys),
        )
        if not layout.parts or (keys is not None and len(keys) != len(layout.parts)):
            raise ValueError("parts and keys differ in number")
    elif description["kind"] == "choices":
        starts = _whole(description["starts"], low=-MOST_NUMBERS)
        layout = Choices(_whole(description["shape"]), _whole(description["counts"]), starts)
        if not math.prod(layout.shape) == len(layout.counts) == len(layout.starts) or min(layout.counts) < 1:
            raise ValueError("counts and starts do not fit the shape")
    elif description["kind"] == "numbers":
        layout = Numbers(_whole(description["shape"]))
    else:
        raise ValueError(f"kind {description['kind']!r}")
    if not 0 < layout.size < MOST_NUMBERS:
        raise ValueError(f"{layout.size} numbers")
    return layout


def layout_of_space(space: gymnasium.Space) -> AbstractLayout:
    """How observations of a Gymnasium space are laid out, as `gymnasium.spaces.flatten` does; else a UserError."""
    layout: AbstractLayout | None = None
    match space:
        case gymnasium.spaces.Box() | gymnasium.spaces.MultiBinary():
            layout = Numbers(tuple(int(side) for side in space.shape))
        case gymnasium.spaces.Discrete():
            layout = Choices((), (int(space.n),), (int(space.start),))
        case gymnasium.spaces.MultiDiscrete():
            counts, starts = space.nvec, space.start
            layout = Choices(tuple(counts.shape), tuple(map(int, np.ravel(counts))), tuple(map(int, np.ravel(starts))))
        case gymnasium.spaces.Dict() if all(isinstance(key, str) for key in space.spaces):
            layout = Parts(tuple(map(layout_of_space, space.spaces.values())), tuple(space.spaces))
        case gymnasium.spaces.Tuple():
            layout = Parts(tuple(map(layout_of_space, space.spaces)))
    if layout is None or layout.size == 0:
        raise UserError(
            f"observation space: found {space}, expected a Box, Discrete, MultiDiscrete or MultiBinary, or a Dict or "
            "Tuple of them that holds a number at least; convert it in the environment with "
            "gymnasium.wrappers.TransformObservation."
        )
    return layout


def spaces_between(observation: gymnasium.Space, action: gymnasium.Space) -> Spaces:
    """The spaces of an environment that hands out `observation` and takes `action`, which must be a Box of floats."""
    return Spaces(layout_of_space(observation), Numbers(tuple(action.shape or ())), np.dtype(action.dtype).name)


def refuse_not_finite(rows: Float[np.ndarray, "b s"], layout: AbstractLayout, name: str, hint: str = "") -> None:
    """A UserError that names the first number of a batch that is NaN or infinite."""
    if all_finite(rows):
        return
    row, column = (int(index) for index in np.argwhere(~np.isfinite(rows))[0])
    each = next(itertools.islice(layout.names(name), column, None))
    where = f" in row {row}" if len(rows) > 1 else ""
    size = " below 3.4e38 in size, as 32-bit floats hold" * bool(np.isinf(rows[row, column]))
    raise UserError(f"{each} is {rows[row, column]}{where}, expected a finite number{size}{hint}.")


def _whole(values: object, low: int = 0) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int and value >= low for value in values):
        raise ValueError(f"found {_short(values)}, expected whole numbers of at least {low}")
    return tuple(values)


def _is_one(array: np.ndarray, shapes: tuple[tuple[int, ...], ...], name: str, batches: bool = True) -> bool:
    """Whether an array is one of these shapes, and not a batch of them; else UserError."""
    if array.shape in shapes:
        return True
    if batches and array.ndim and array.shape[1:] in shapes:
        return False
    taken = [str(shape) for shape in dict.fromkeys(shapes)]
    if batches:
        taken += [f"(batch, {', '.join(map(str, shape))})" if shape else "(batch,)" for shape in dict.fromkeys(shapes)]
    raise UserError(f"{name}: found shape {array.shape}, expected {' or '.join(taken)}.")


def _short(value: object, most: int = 60) -> str:
    """`repr`, cut where it is long; only the type of what cannot say it."""
    try:
        text = " ".join(repr(value).split())
    except Exception:
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= most else f"{text[:most]}…"
