"""`fittedq render RUN --out FILE`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from fittedq.cli.arguments import MaybeInt, MaybeWord
from fittedq.cli.environments import GivesCode, NamesEnv
from fittedq.errors import plural
from fittedq.pages.film import render


@dataclass(frozen=True)
class Render(NamesEnv, GivesCode):
    """Film the first episode of an evaluation, as the environment renders it."""

    path: tyro.conf.Positional[Path]
    """A run folder (its best agent) or an agent folder (such as RUN/last)."""
    out: Path
    """The film, .gif or .mp4. A file that is there is not replaced."""
    env: MaybeWord = None
    """The environment; by default the one it was trained in."""
    seed: int = 0
    """Seed of the episode."""
    steps: MaybeInt = None
    """Steps that are shown, at most (default: the whole episode)."""
    fps: MaybeInt = None
    """Pictures a second (default: as the environment says)."""
    json: bool = False
    """Print one JSON object, for machines."""

    def run(self) -> int:
        given = {"seed": self.seed, "steps": self.steps, "fps": self.fps}
        how = {"code": self.code, "trust_code": self.trust_code}
        shown = render(self.path, self.out, env=self.named(self.env), **given, **how)
        size = self.out.stat().st_size
        if self.json:
            print(json.dumps({"out": str(self.out), "pictures": shown, "bytes": size}))
        else:
            print(f"{self.out}: {plural(shown, 'picture', 'pictures')}, {size:,} bytes.")
        return 0
