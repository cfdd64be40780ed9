"""A page about a run, an agent, or the seeds of one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fittedq.agent import Agent
from fittedq.algorithms.saved import Code
from fittedq.diagnose.verdicts import LIMITS, worst_grade
from fittedq.envs.registry import NamedEnv, name_of
from fittedq.errors import UserError
from fittedq.files import place
from fittedq.pages.again import reproduction
from fittedq.pages.behaviour import behaviour
from fittedq.pages.page import Page, check_page
from fittedq.pages.records import controller, curve, losses, made_with, times, told_interval, warnings
from fittedq.pages.subject import Subject, Wishes
from fittedq.pages.trust import trust
from fittedq.runs.groups import Group, groups
from fittedq.runs.listing import list_runs, record
from fittedq.settings import MOST_SEED, whole

MOST_EPISODES = 100
"""That are played: all their samples are in the page."""


def report(
    path: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    env: str | NamedEnv | None = None,
    data: str | Path | None = None,
    episodes: int = 3,
    seed: int = 0,
    code: Code = None,
    trust_code: Sequence[str] = (),
) -> Page:
    """A page about a run, an agent, or the seeds of one configuration; written to `out` as one file of HTML.

    `env` is where it is to play, by default where it was trained; `data` are rows that it did not learn from, by which
    its worth is estimated; `code` and `trust_code` are `load`'s. `page.describe()` is the page as JSON.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    asked = Wishes(
        env=name_of(env),
        data=None if data is None else place(data, "data"),
        episodes=whole(episodes, "episodes", 1, MOST_EPISODES),
        seed=whole(seed, "seed", high=MOST_SEED),
        code=code,
        trust_code=trust_code,
    )
    return reported([place(one, "path") for one in paths], asked, None if out is None else place(out, "out"))


def reported(paths: Sequence[Path], asked: Wishes, out: Path | None) -> Page:
    """A page about what lies at `paths`, one run or agent, or runs that differ in their seed alone; written to `out`.

    Of several runs the middle one by its last evaluation is looked at. The same runs give the same page. UserError:
    nothing of ours lies there, runs that are no seeds of one configuration, or an `out` that is not ours.
    """
    path, group = _chosen(paths)
    subject = Subject(path, asked)
    subject.check_wishes()
    if out is not None:
        check_page(out)
    judged_section, judged = trust(subject)
    remedies = [
        (limit.title, judged[limit.figure]["next"]) for limit in LIMITS if "next" in judged.get(limit.figure, {})
    ]
    sections = [
        controller(subject),
        curve(subject, group),
        behaviour(subject),
        judged_section,
        losses(subject),
        times(subject),
        warnings(subject, remedies),
        made_with(subject),
        reproduction(subject),
    ]
    about = _title(subject), _subtitle(subject, group), _numbers(subject, group)
    page = Page(*about, sections, worst_grade(judged))
    if out is not None:
        page.write(out)
    return page


def _chosen(paths: Sequence[Path]) -> tuple[Path, Group | None]:
    """(what to look at, the seeds that it is one of)."""
    if not paths:
        raise UserError("report: found no path, expected the folder of a run or an agent.")
    runs = [Path(one.path) for path in dict.fromkeys(paths) if path.is_dir() for one in list_runs(path)]
    if len(paths) == 1 and len(runs) <= 1:
        return (runs[0] if runs else paths[0]), None
    found = groups(paths)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise UserError(
            f"report: found runs that differ in more than their seed ({names}); compare them with `fittedq compare "
            "--recorded --html compare.html`, or report one at a time."
        )
    (group,) = found
    order = sorted(group.runs, key=lambda run: (run.score("last"), run.config["seed"]))
    return order[(len(order) - 1) // 2].path, group


def _title(subject: Subject) -> str:
    config, agent = subject.config, subject.agent.value
    method = config.get("preset") or config.get("algorithm") or (agent.algorithm.name if agent else "an agent")
    env = config.get("env") or config.get("eval_env")
    where = str(NamedEnv.of(env, str(subject.path))) if env else ""
    if not where and isinstance(agent, Agent) and agent.env is not None:
        where = str(agent.env)
    data = f" from {Path(config['data']).name}" if config.get("data") else ""
    return f"{method}{f' on {where}' if where else ''}{data}"


def _subtitle(subject: Subject, group: Group | None) -> str:
    if subject.run is None:
        return f"The agent in {subject.path}."
    state = record(subject.run).state
    if group is None:
        return f"The run in {subject.run.path}: {state}."
    seeds, chosen = ", ".join(str(run.config["seed"]) for run in group.runs), subject.config["seed"]
    return f"Seeds {seeds}; looked at closely: {chosen}, the middle one by its last evaluation, in {subject.run.path}."


def _numbers(subject: Subject, group: Group | None) -> dict[str, str]:
    if subject.run is None:
        return {}
    row, records = record(subject.run), subject.records
    evaluated = [one for one in records if one.get("eval_mean") is not None]
    seconds = sum((one.get("stages") or {}).get("training", 0.0) for one in records)
    found = {"seed": str(row.seed), "steps": f"{row.step or 0:,} of {row.steps:,}"}
    if group is not None:
        found["seeds"] = str(len(group.runs))
    if evaluated:
        found |= {"best return": f"{row.best:,.4g}", "last return [95 %]": told_interval(evaluated[-1])}
    if seconds:
        found["training"] = f"{seconds:,.1f} s"
    return found
