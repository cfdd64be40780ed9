"""A controller is written, run beside the agent, and published only where the two agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from fittedq.acting.loop import SafeLoop
from fittedq.errors import UserError
from fittedq.export.folder import check_place, publish, write_files
from fittedq.export.language import About, AbstractLanguage, Golden, accepted, facts
from fittedq.export.program import AbstractSolver, ControlProgram
from fittedq.export.timing import Timing
from fittedq.export.verify import SAMPLES, golden, samples, verified
from fittedq.files import Scratch

JITTER = "timing.png"
SELF_TEST = 24
"""Samples that a controller is given to test itself by."""


def write_export(
    language: AbstractLanguage,
    program: ControlProgram,
    about: About,
    loop: SafeLoop,
    known: Float[np.ndarray, "N o"],
    out: Path,
    *,
    number: int = SAMPLES,
    verify: bool = True,
    timed: Callable[[Golden], Timing] | None = None,
) -> dict[str, Any]:
    """What `export.json` says; a UserError, and nothing at `out`, where the controller is not the agent's.

    `known` are observations such as the plant gives. Without `verify` the controller is not run. What `timed` measures
    stands in it too, and as a picture beside it.
    """
    check_place(out)
    obs, begins = samples(known, number)
    expected = golden(loop, obs, begins)
    short = expected.first(SELF_TEST)
    with Scratch(out) as scratch:
        files = write_files(scratch.folder, language.files(program, about, short))
        found = None
        if verify:
            with language.running(scratch.folder) as running:
                found = verified(running, expected, program, accepted(language).tolerance)._asdict()
        timing = None if timed is None else timed(short)
        if timing is not None:
            files |= write_files(scratch.folder, {JITTER: timing.picture()})
        told = {
            "target": language.name,
            "title": language.title,
            "about": asdict(about),
            "options": dict(accepted(language).options),
            "tolerance": accepted(language).tolerance,
            "verified": found,
            "facts": facts(language, program, about, short) | _told(program),
            "files": files,
        } | ({} if timing is None else {"timing": timing.describe()})
        publish(scratch, told)
    return told


def _told(program: ControlProgram) -> dict[str, str]:
    """What a program does beside its networks."""
    told = {}
    for stage in (line.stage for line in program.lines if isinstance(line.stage, AbstractSolver)):
        begin = (
            "the policy's action" if len(program.lines[-1].sources) > 1 else f"the best of {len(stage.starts)} starts"
        )
        told["solver"] = f"{stage.steps} steps on the critic from {begin}, at most {stage.trust:g} half-widths far"
    if program.guard is not None:
        told["familiar"] = f"{program.guard.numbers:,} numbers say what is, and a fallback acts elsewhere"
    return told


def check_known(known: Float[np.ndarray, "N o"], obs_size: int) -> Float[np.ndarray, "N o"]:
    """Observations that an export is verified at; a UserError where they are none of this agent."""
    if known.ndim != 2 or known.shape[1] != obs_size or not len(known) or not np.isfinite(known).all():
        raise UserError(f"data: found {known.shape}, expected finite observations of {obs_size} numbers, one a row.")
    return np.asarray(known, np.float32)
