"""A page in a browser that shows it to nobody: no error on its console, and everything drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fittedq.pages.blocks import Axis, Curve, Lines, Maps, Said, View
from fittedq.pages.page import Page, Section

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium here")]


def maps(size: int) -> Maps:
    """Two functions of so many coordinates."""
    values = np.random.default_rng(0).normal(size=(7,) * size)
    axes = [Axis(f"x{place}", -1.0, 1.0, 0.0) for place in range(size)]
    return Maps(f"{size} coordinates", axes, {"f": values, "g": -values}, size - 1)


def page() -> Page:
    """Every kind of figure, with gaps, bands, several views, one to four coordinates, and a name that is no markup."""
    t = list(range(100))
    wave = [float(np.sin(0.2 * one)) for one in t]
    banded = Curve("a </script> b", wave, low=[one - 1 for one in wave], high=[one + 1 for one in wave])
    views = [View("one", t, [banded, Curve("held", [None, *wave[1:]], "steps", color=1)]), View("two", t, [banded])]
    positive = [View("", t, [Curve("growing", [10.0**one for one in t])])]
    lines = [Lines("views", "t", "y", views), Lines("logarithmic", "t", "y", positive, logarithmic=True)]
    blocks = [Said("text"), *lines, *map(maps, range(1, 5))]
    return Page("A page", "of everything", {"a number": "7"}, [Section("one", "One", blocks)], "ok")


def shown(file: Path, *more: str) -> tuple[str, str]:
    """(the page after its scripts have run, what its console says)."""
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *more]
    done = subprocess.run([*command, "--dump-dom", f"file://{file}"], capture_output=True, text=True, timeout=120)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("how", [("--window-size=1000,800",), ("--window-size=390,800", "--force-dark-mode")])
def test_everything_is_drawn_and_nothing_is_wrong(tmp_path: Path, how: tuple[str, ...]) -> None:
    page().write(tmp_path / "page.html")
    dom, console = shown(tmp_path / "page.html", *how)
    assert console == ""
    assert dom.count('class="uplot') == 2  # figures of the library
    assert len(re.findall(r'<canvas width="[1-9]', dom)) == 2 + 4
    assert dom.count('type="range"') == 1 + 2  # sliders of three and of four coordinates


def test_a_page_that_fails_would_be_seen(tmp_path: Path) -> None:
    # A script that is not the one that the page allows is not run, and the console says so.
    (tmp_path / "wrong.html").write_text(page().html().replace("new uPlot(", "new uPlots("))
    dom, console = shown(tmp_path / "wrong.html")
    assert "Content Security Policy" in console and 'class="uplot' not in dom


def test_it_prints(tmp_path: Path) -> None:
    page().write(tmp_path / "page.html")
    out = tmp_path / "page.pdf"
    shown(tmp_path / "page.html", f"--print-to-pdf={out}")
    assert out.read_bytes().startswith(b"%PDF") and out.stat().st_size > 20_000
