"""MuJoCo's warnings go to Python's `logging`, not to a file MUJOCO_LOG.TXT in whatever folder is the current one."""

from __future__ import annotations

import functools
import logging
import sys

LOGGER = logging.getLogger("fittedq.mujoco")


def redirect_mujoco() -> None:
    """Take over MuJoCo's warnings in this process, where MuJoCo is in use and nobody else has taken them.

    MuJoCo appends each warning to a file in the current folder unless a function is set that takes it.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None and mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(_warned)


def _warned(text: str) -> None:
    _say_once(text.partition(" Time = ")[0].strip())


@functools.cache
def _say_once(text: str) -> None:
    """A simulation that is unstable says so in every step: each sentence is told once a process."""
    LOGGER.warning("MuJoCo: %s", text)
