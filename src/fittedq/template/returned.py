# pyright: reportMissingTypeStubs=false
"""What slots return, checked while a program is traced: a wrong shape is one sentence, and costs nothing after."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import cast

import equinox as eqx
import jax
import numpy as np
import optax

from fittedq.arrays import Scalar, Tree
from fittedq.errors import UserError, in_one_line
from fittedq.template.targets import Labelled
from fittedq.types import Greedy

OURS = (*(str(Path(str(part.__file__)).parent) for part in (jax, eqx, optax)), str(Path(__file__).parents[1]))
"""Where the frames are that are not the user's own."""


def _refuse(slot: eqx.Module, found: object, expected: str) -> UserError:
    return UserError(f"{type(slot).__name__}: it returned {found}, expected {expected}.")


def _shaped(slot: eqx.Module, name: str, part: object, shape: tuple[int | None, ...], words: str) -> None:
    """A UserError unless an array has this shape, None standing for any length."""
    found: tuple[int, ...] = np.shape(cast("Tree", part))
    if len(found) != len(shape) or any(size not in (length, None) for length, size in zip(found, shape, strict=True)):
        expected = ", ".join("m" if size is None else str(size) for size in shape)
        raise _refuse(slot, f"{name} of shape {list(found)}", f"[{expected}], {words}")


def checked_labels(slot: eqx.Module, found: object) -> Labelled:
    """D as a target returned it, a row of y for each row of its inputs."""
    if not isinstance(found, Labelled):
        raise _refuse(slot, f"a {type(found).__name__}", "Labelled(inputs, y)")
    rows = len(found.inputs[0])
    if found.weight is None:
        _shaped(slot, "y", found.y, (rows,), "a number for each row")
    else:
        _shaped(slot, "y", found.y, (rows, None), "the atoms of each row's distribution")
    return found


def checked_greedy(slot: eqx.Module, found: object, rows: int) -> Greedy:
    """The greedy actions, one for each of `rows` states."""
    if not isinstance(found, Greedy):
        raise _refuse(slot, f"a {type(found).__name__}", "Greedy(action, log_prob, solved)")
    _shaped(slot, "actions", found.action, (rows, None), "an action for each state")
    _shaped(slot, "log_prob", found.log_prob, (rows,), "a number for each state (zeros where there is no density)")
    _shaped(slot, "solved", found.solved, (rows,), "whether a solver gave each action")
    return found


def checked_loss(slot: eqx.Module, found: object) -> tuple[Scalar, dict[str, Scalar]]:
    """(loss, metrics) as a loss returned them."""
    pair: tuple[object, ...] = cast("tuple[object, ...]", found) if type(found) is tuple else ()
    if len(pair) != 2 or not isinstance(pair[1], dict):
        words = f"{len(pair)} values" if pair else "one value"
        raise _refuse(slot, words, "(loss, metrics), metrics a dictionary of numbers by name")
    _shaped(slot, "a loss", pair[0], (), "one number")
    return cast("tuple[Scalar, dict[str, Scalar]]", found)


@contextlib.contextmanager
def own_code() -> Generator[None]:
    """One sentence for what a user's own function does that a compiled program cannot: it names the line."""
    try:
        yield
    except jax.errors.JAXTypeError as error:
        raise UserError(
            f"{_place(error)}: it needs the value of an array while its program is compiled; compute with jax.numpy, "
            "and write jnp.where(condition, a, b) in place of if."
        ) from error
    except AttributeError as error:
        if error.obj is not None or error.name is None:
            raise
        raise UserError(
            f"{_place(error)}: it reads {error.name} of what the template does not give; name in `needs` what the slot "
            "reads, and give the template a greedy step, or the component."
        ) from error
    except TypeError as error:
        if not _frames(error):
            raise
        raise UserError(f"{_place(error)}: {in_one_line(error)}") from error


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where an error passed through the user's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not frame.filename.startswith((*OURS, contextlib.__file__, "<@beartype"))]


def _place(error: BaseException) -> str:
    """The innermost line of the user's own that an error passed through."""
    frames = _frames(error) or list(traceback.extract_tb(error.__traceback__))
    return f"{frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}"
