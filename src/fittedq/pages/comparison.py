"""A page of groups of runs beside one another."""

from __future__ import annotations

from collections.abc import Sequence

from fittedq.errors import plural
from fittedq.pages.blocks import AbstractBlock, Curve, Lines, Said, Table, View
from fittedq.pages.page import Page, Section
from fittedq.runs.groups import Group, Standings, profiles


def comparison_page(found: Sequence[Group], which: str) -> Page:
    """The standings, their curves by steps and by time, the share of runs above each score, and every run."""
    standings = Standings.of(found, which)
    head, *rows = standings.table()
    protocol = [
        [name, f"{value:,}" if isinstance(value, int) else str(value)] for name, value in standings.protocol.items()
    ]
    first = standings.rows[0]
    runs = [
        [group.name, str(run.config["seed"]), f"{run.score('last'):,.4g}", f"{run.score('best'):,.4g}", str(run.path)]
        for group in found
        for run in group.runs
    ]
    intervals = (
        "Interquartile means have the percentile interval of a stratified bootstrap; how often a run of a group is "
        f"ahead of one of {standings.first} is the probability of improvement (Agarwal et al. 2021)."
    )
    said = [intervals] if standings.caution is None else [standings.caution, intervals]
    sections = [
        Section("standings", "Standings", [Table(head, rows), *map(Said, said)]),
        Section("curves", "How they learned", _curves(found)),
        Section("profiles", "Shares of runs above each score", [_profiles(found, which)]),
        Section("protocol", "Protocol", [Table([], protocol)]),
        Section("runs", "Every run", [Table(["runs", "seed", "last", "best", "folder"], runs)]),
    ]
    count = sum(len(group.runs) for group in found)
    numbers = {
        "groups": str(len(found)),
        "runs": str(count),
        "first": first.name,
        "its interquartile mean": str(first.middle),
    }
    title = f"{plural(count, 'run', 'runs')} on {standings.protocol['environment']}"
    return Page(title, f"{standings.told}.", numbers, sections)


def _curves(found: Sequence[Group]) -> list[AbstractBlock]:
    by_step, by_hour = [], []
    for place, group in enumerate(found):
        mean, low, high = ([one[end] for one in group.middles] for end in range(3))
        curve = Curve(group.name, mean, low=low, high=high, color=place)
        by_step.append((group.steps, curve))
        by_hour.append((group.hours, curve))
    views = [View.joined("by steps", by_step), View.joined("by hours of training", by_hour)]
    return [
        Lines("Interquartile mean of returns and its 95 %", label, "return", [view])
        for label, view in zip(("steps", "hours of training"), views, strict=True)
    ]


def _profiles(found: Sequence[Group], which: str) -> Lines:
    at, shares = profiles(found, which)
    curves = [
        Curve(group.name, own.tolist(), color=place)
        for place, (group, own) in enumerate(zip(found, shares, strict=True))
    ]
    return Lines(
        "Performance profiles",
        f"score τ ({which} evaluation)",
        "share of runs above τ",
        [View("", at.tolist(), curves)],
    )
