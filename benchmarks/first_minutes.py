"""Minutes from a clone to the open report of a trained controller, as a new user's, and the size of the installation.

    .venv/bin/python benchmarks/first_minutes.py

In a new folder and with a new home, so that no cache of pip's, of compiled programs or of anybody is found: `git clone`
of this repository's committed state, `make install` (the environment, and fittedq with what it needs, from the package
index), `make demo` (trains, evaluates, writes a page), and the page opened by a headless Chromium where there is one,
until its figures are drawn. The clone is of this disk; the index may be a mirror near by. So the time of a user's own
connection comes on top. README.md quotes what was measured, between its marks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import describe

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "first_minutes.json"
TARGET = 5.0
LARGEST = 5
README, BEGIN, END = ROOT / "README.md", "<!-- by benchmarks/first_minutes.py -->\n", "<!-- end -->"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def megabytes(folder: Path) -> float:
    """What the files below take."""
    return round(sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir()) / 1e6, 1)


def opened(page: Path, home: Path) -> list[str] | None:
    """The command that opens a page and prints it as it is drawn; None without a browser."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None
    own = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={home / 'browser'}"]
    return [browser, *own, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]


def quoted(result: dict[str, Any]) -> str:
    """What README.md says of it."""
    size, largest = result["core_installation_mb"], result["largest_mb"]
    scipy = largest["scipy"] + largest.get("scipy.libs", 0)
    minutes = f"{result['minutes']:.1f} minutes on {result['machine']['cores_used']} cores, an empty cache of pip's"
    source = "[measured](benchmarks/results/first_minutes.json)"
    return (
        f"From a clone to the open page it takes {minutes} included ({source}). The installation has {size:.0f} MB; "
        f"jaxlib's {largest['jaxlib']:.0f} and SciPy's {scipy:.0f} are what JAX needs.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--try", dest="kept", action="store_false", help="print what was measured, and keep nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home, clone = Path(place) / "home", Path(place) / "fittedq"
        home.mkdir()
        ours = ("JAX_", "FITTEDQ_", "XDG_", "PYTHONPATH", "PIP_CACHE", "VIRTUAL_ENV", "MAKEFLAGS")
        own = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        own |= {"HOME": str(home), "PATH": own["PATH"].replace(f"{ROOT / '.venv' / 'bin'}:", "")}
        seconds: dict[str, float] = {}

        def timed(name: str, command: list[str], folder: Path) -> str:
            began = time.perf_counter()
            done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
            seconds[name] = round(time.perf_counter() - began, 1)
            if done.returncode != 0:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
            print(f"{name}: {seconds[name]} s", flush=True)
            return done.stdout

        before = os.getloadavg()
        timed("git clone", ["git", "clone", "--quiet", str(ROOT), str(clone)], home)
        timed("make install", ["make", "install"], clone)
        packages = next((clone / ".venv" / "lib").glob("python3*/site-packages"))
        size = megabytes(clone / ".venv")
        largest = sorted(((megabytes(one), one.name) for one in packages.iterdir() if one.is_dir()), reverse=True)
        said = timed("make demo", ["make", "demo"], clone)
        page = clone / "runs" / "demo-0" / "report.html"
        command = opened(page, home)
        if command is not None and timed("open report.html", command, home).count("<canvas") < 3:
            raise SystemExit("the page was opened, and its figures were not drawn")
    result: dict[str, Any] = {
        **describe("fittedq", "jax"),
        "load_before": [round(one, 2) for one in before],
        "seconds": seconds,
        "minutes": round(sum(seconds.values()) / 60, 2),
        "target": TARGET,
        "core_installation_mb": size,
        "largest_mb": {name: value for value, name in largest[:LARGEST]},
        "demo": said.splitlines()[-12:],
        "cached": "nothing of pip's or of compiled programs; the clone is of this disk",
    }
    if given.kept:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        before_it, _, after = README.read_text().partition(BEGIN)
        README.write_text(f"{before_it}{BEGIN}{quoted(result)}{END}{after.partition(END)[2]}")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
