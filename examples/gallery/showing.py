"""What the scripts of the gallery share: how one is run by hand, and how its picture looks."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Data = dict[str, Any]
"""What a script learned, as JSON has it; `told` are the lines that it prints."""
BLUE, RED, GREEN, ORANGE, GREY = "#2b6cb0", "#c53030", "#2f855a", "#dd6b20", "#718096"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.prop_cycle": "cycler('color', ['#2b6cb0', '#c53030', '#2f855a', '#dd6b20', '#718096'])",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


def picture(drawn: Callable[[Any, Data], None], data: Data, path: Path, **metadata: str) -> None:
    """Draw what was learned, in the gallery's size and style, in as many colours as a small file can have."""
    import matplotlib
    from PIL import Image, PngImagePlugin

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(7.2, 3.4), layout="constrained")
        drawn(figure, data)
        canvas = io.BytesIO()
        figure.savefig(canvas, dpi=120)
        plt.close(figure)
    said = PngImagePlugin.PngInfo()
    for name, text in metadata.items():
        said.add_text(name, text)
    with Image.open(canvas) as drawing:
        drawing.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(path, optimize=True, pnginfo=said)


def show(script: str, learned: Callable[[], Data], drawn: Callable[[Any, Data], None]) -> None:
    """Run a project: print its figures, and draw its picture into the folder that is open."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else f"{Path(script).stem}.png")
    if path.suffix != ".png" or path.is_dir() or not os.access(path.parent, os.W_OK):
        sys.exit(f"{path}: expected the name of a .png file in a folder that can be written to; give another.")
    start = time.perf_counter()
    data = learned()
    print("\n".join(data["told"]))
    picture(drawn, data, path)
    print(f"{time.perf_counter() - start:.0f} s; the picture: {path}")
