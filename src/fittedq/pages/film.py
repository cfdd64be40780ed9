"""A controller's episode as pictures: the frames that an environment renders, as a GIF or an MP4."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fittedq.acting.episodes import AbstractController, played_in
from fittedq.algorithms.saved import Code
from fittedq.api import load
from fittedq.envs.flat import FlatEnv
from fittedq.envs.plant import AnyEnv
from fittedq.envs.registry import NamedEnv, name_of
from fittedq.envs.rendering import rendering
from fittedq.errors import UserError, in_one_line
from fittedq.files import check_parent, place, temporary
from fittedq.runs.saved import without_env
from fittedq.settings import MOST_SEED, whole

Frame = UInt8[np.ndarray, "_ _ 3"]
USUAL_FPS = 30
ENDINGS = (".gif", ".mp4")


def render(
    path: str | Path,
    out: str | Path,
    *,
    env: str | NamedEnv | None = None,
    seed: int = 0,
    steps: int | None = None,
    fps: int | None = None,
    code: Code = None,
    trust_code: Sequence[str] = (),
) -> int:
    """Film the first episode that an evaluation with this seed plays (.gif or .mp4); how many pictures it has.

    At most so many `steps` are shown. `env` is where to play, by default where the agent at `path` was trained; `code`
    and `trust_code` are `load`'s.
    """
    agent, film = load(path, code, trust_code), place(out, "out")
    check_film(film)
    named = name_of(env) or (agent.env and agent.env.trusted(trust_code))
    if named is None:
        raise UserError(f"{path} {without_env(place(path, 'path'))}; name one.", argument="env")
    most = None if steps is None else whole(steps, "steps", 1)
    rate = frames_a_second(named) if fps is None else whole(fps, "fps", 1, 240)
    with closing(frames(agent.controller(), named, whole(seed, "seed", high=MOST_SEED))) as seen:
        return write_film(film, islice(seen, most), rate)


def frames(controller: AbstractController[Any], env: AnyEnv, seed: int = 0) -> Generator[Frame, None, None]:
    """What is seen at each step of an episode, the one that an evaluation with this seed begins with.

    UserError: an environment that renders nothing, or fails to.
    """
    made = rendering(env)
    with closing(made):
        for _ in next(played_in(controller, made, seed)):
            yield _seen(made)


def frames_a_second(env: AnyEnv) -> int:
    """What the environment says, else 30."""
    with closing(rendering(env)) as made:
        said = made.metadata.get("render_fps")
    return int(said) if isinstance(said, int | float) and 1 <= said <= 240 else USUAL_FPS


def _seen(env: FlatEnv) -> Frame:
    try:
        with warnings.catch_warnings(action="ignore"):  # of a library that finds no screen; what it raises is told
            found = np.asarray(env.render())
    except (Exception, SystemExit) as error:
        raise UserError(f"environment {env.label} could not be rendered ({in_one_line(error)}).") from error
    if found.ndim != 3 or found.shape[2] != 3 or found.dtype != np.uint8:
        raise UserError(
            f"environment {env.label} rendered {found.dtype} of shape {found.shape}, expected pictures [h, w, 3] of "
            "uint8."
        )
    return found


# ---------------------------------------------------------------------- files


def write_film(path: Path, pictures: Iterable[Frame], fps: int) -> int:
    """Write a film (.gif or .mp4), whole or not there; how many pictures it has. UserError: a file that is there."""
    check_film(path)
    iio, unnamed, count = imaging(path.suffix), temporary(path.parent).with_suffix(path.suffix), 0
    options: dict[str, Any] = (
        {"loop": 0, "duration": 1000 / fps} if path.suffix == ".gif" else {"fps": fps, "macro_block_size": 2}
    )
    try:
        # ffmpeg is started by a fork, which JAX warns of: the child does nothing but that.
        with (
            warnings.catch_warnings(action="ignore", category=RuntimeWarning),
            iio.get_writer(unnamed, **options) as film,
        ):
            for picture in pictures:
                film.append_data(_even(picture) if path.suffix == ".mp4" else picture)
                count += 1
        with open(unnamed, "rb") as file:
            os.fsync(file.fileno())
        os.replace(unnamed, path)
    except OSError as error:
        raise UserError(f"film {path} cannot be written ({error.strerror or error}).") from None
    finally:
        unnamed.unlink(missing_ok=True)
    return count


def check_film(path: Path) -> None:
    """A UserError where no film can be written under that name."""
    if path.suffix not in ENDINGS:
        raise UserError(f"found {path}, expected a name that ends in {' or '.join(ENDINGS)}.", argument="out")
    if os.path.lexists(path):
        raise UserError(f"{path} exists, and is not replaced; choose another name.", argument="out")
    check_parent(path, "out")
    imaging(path.suffix)


def imaging(suffix: str) -> ModuleType:
    """The library that writes films; a UserError where it is not installed."""
    try:
        import imageio.v2 as imageio

        if suffix == ".mp4":
            import imageio_ffmpeg

            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
                imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise UserError(
            f"films ({suffix}) need a package that is not installed; pip install 'fittedq[video]'."
        ) from None
    return imageio


def _even(picture: Frame) -> Frame:
    """Without a last odd row or column: films of most codecs have none."""
    height, width = picture.shape[:2]
    return picture[: height - height % 2, : width - width % 2]


def small_film(pictures: Iterable[Frame], fps: int, *, shown: int = 40, every: int = 4, width: int = 200) -> bytes:
    """A GIF of every so many pictures, so many at most, and no wider than that: to be inlined."""
    kept = [_shrunk(picture, width) for picture in islice(pictures, 0, shown * every, every)]
    film = io.BytesIO()
    imaging(".gif").mimwrite(film, kept, format="gif", loop=0, duration=1000 * every / fps)
    return film.getvalue()


def _shrunk(picture: Frame, width: int) -> Frame:
    """A picture no wider than `width`, each of its points the mean of a block."""
    block = -(-picture.shape[1] // width)
    height, across = (size - size % block for size in picture.shape[:2])
    blocks = picture[:height, :across].reshape(height // block, block, across // block, block, 3)
    return blocks.mean((1, 3)).astype(np.uint8)
