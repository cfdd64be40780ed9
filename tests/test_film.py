"""`fittedq render`: the episode that an evaluation plays, as the environment renders it."""

from __future__ import annotations

import builtins
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fittedq
from fittedq.cli.main import main
from fittedq.errors import UserError
from fittedq.pages import film

SCREEN = '''
import gymnasium, numpy as np

class Screen(gymnasium.Env):
    """Its picture tells its state: the age in green, what was decided in blue."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age, self.decided, self.start = 0, 0.0, float(self.np_random.uniform(-1, 1))
        return np.float32([self.start]), {}

    def step(self, action):
        self.age, self.decided = self.age + 1, float(action[0])
        return np.float32([self.start]), 0.0, False, self.age == 9, {}

    def render(self):
        blue = round(127 * (1 + self.decided))
        return np.tile(np.uint8([0, 20 * self.age, blue]), (33, 47, 1))
'''


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("screen")
    (folder / "screen.py").write_text(SCREEN)
    name = f"{folder / 'screen.py'}:Screen"
    fittedq.train("td3", name, steps=12, out=folder / "run", hidden=(8,), random_steps=20, batch_size=4)
    return folder / "run", name


def test_a_film_is_the_episode_of_an_evaluation(
    agent: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, name = agent
    out = tmp_path / "episode.gif"
    assert main(["render", str(run), "--out", str(out), "--trust-code", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "pictures": 9, "bytes": out.stat().st_size}
    pictures = film.imaging(".gif").mimread(out)
    assert [int(one[0, 0, 1]) for one in pictures] == [20 * age for age in range(1, 10)]
    loaded = fittedq.load(run, trust_code=[name])
    first = loaded.trajectory(name, 1)
    blue = round(127 * (1 + float(first.action[0, 0])))
    assert abs(int(pictures[0][0, 0, 2]) - blue) <= 1 and pictures[0].shape[:2] == (33, 47)
    # Never in the place of a file.
    assert main(["render", str(run), "--out", str(out), "--trust-code", name]) == 2
    assert "exists, and is not replaced" in capsys.readouterr().err
    assert fittedq.render(run, tmp_path / "short.gif", trust_code=[name], steps=3, fps=2) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode.gif", "short.gif"]


def test_an_mp4_has_even_sides(agent: tuple[Path, str], tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    run, name = agent
    assert fittedq.render(run, tmp_path / "episode.mp4", trust_code=[name]) == 9
    read = [ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(tmp_path / "episode.mp4"), "-f", "null", "-"]
    told = subprocess.run(read, capture_output=True, text=True, check=True).stderr
    assert "46x32" in told and re.search(r"frame=\s*9\b", told)


@pytest.mark.parametrize(
    ("out", "found"),
    [("film.avi", "ends in .gif or .mp4"), ("nowhere/film.gif", "found no folder"), ("film", "ends in .gif or .mp4")],
)
def test_a_wrong_name_is_told_before_anything_is_played(
    agent: tuple[Path, str], tmp_path: Path, out: str, found: str
) -> None:
    with pytest.raises(UserError, match=found):
        fittedq.render(agent[0], tmp_path / out, trust_code=[agent[1]])
    assert not list(tmp_path.iterdir())


def test_what_renders_nothing_says_so(agent: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, name = agent
    with pytest.raises(UserError, match="compiled and renders nothing"):
        fittedq.render(run, tmp_path / "film.gif", env="jax/Pendulum-v1")
    original = builtins.__import__

    def without(module: str, *more: Any) -> object:
        if module.startswith("imageio"):
            raise ImportError(module)
        return original(module, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'fittedq\[video\]'"):
        fittedq.render(run, tmp_path / "film.gif", trust_code=[name])
    assert not list(tmp_path.iterdir())


def test_small_pictures_are_means_of_blocks() -> None:
    picture = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    small = film._shrunk(picture, 3)
    assert small.shape == (2, 3, 3)
    assert small[1, 2].tolist() == picture[3:, 6:].reshape(-1, 3).mean(0).astype(int).tolist()
