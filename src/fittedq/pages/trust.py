"""Whether to trust a controller: verdicts with the figure behind each."""

from __future__ import annotations

from typing import Any

import numpy as np

from fittedq.agent import Agent
from fittedq.diagnose.gap import gap_figures
from fittedq.diagnose.paired import Interval
from fittedq.diagnose.values import discounted_returns
from fittedq.diagnose.verdicts import verdicts
from fittedq.errors import UserError
from fittedq.estimates.estimate import estimate
from fittedq.maximize.base import Status
from fittedq.pages.blocks import AbstractBlock, Curve, Lines, Said, Table, Verdicts, View
from fittedq.pages.page import Section
from fittedq.pages.subject import Maybe, Subject
from fittedq.runs.health import drift_figures, health_figures
from fittedq.types import Transition

OWN_STEPS = 300
"""Of its own, at least, that the figures are of."""
GAP_AT = 16
"""Of the gap."""
GAP_SECONDS, STATE_SECONDS = 10.0, 2.0
"""What its proof may take."""
WITHIN = 0.05
"""`fittedq inspect --within`."""
ENDS = ("lower", "upper")
UNHURRIED = {Status.EXACT, Status.OPTIMAL, Status.ROUNDED, Status.GAP}
"""How a search ends that no clock ended."""


def trust(subject: Subject) -> tuple[Section, dict[str, dict[str, Any]]]:
    """The section, and its verdicts."""
    agent = subject.agent.value
    if agent is None:
        return Section("trust", "Whether to trust it", [Said(subject.agent.why, missing=True)]), {}
    blocks, figures = list[AbstractBlock](), dict[str, float]()
    own = _own_rows(subject, agent)
    rows = _first_rows(subject, agent) if own.value is None else own.value
    measured = _of_log(subject, agent), Maybe.of(lambda: _own_figures(subject, agent, own.value))
    for found in measured:
        figures |= found.value or {}
    blocks += [Said(why, missing=True) for why in (own.why, *(found.why for found in measured)) if why]
    more: list[AbstractBlock] = []
    if rows is not None:
        gap = Maybe.of(lambda: _gap(agent, rows))
        if gap.value is None:
            blocks.append(Said(f"No gap: {gap.why}", missing=True))
        else:
            figures |= gap.value[0]
            more += gap.value[1]
        more += _promised(agent, rows, own=own.value is not None)
    judged = verdicts(figures)
    rest = [[name, f"{value:.4g}"] for name, value in sorted(figures.items()) if name not in judged]
    if judged:
        blocks.insert(0, Verdicts(judged))
    blocks += more
    if rest:
        blocks.append(Table(["figure", "value"], rest, folded="All figures"))
    blocks += _estimates(subject, agent)
    return Section("trust", "Whether to trust it", blocks), judged


def _own_rows(subject: Subject, agent: Agent) -> Maybe[Transition]:
    """Its own transitions, where it can act."""
    plant = subject.plant.value
    if plant is None:
        return Maybe(None, f"Nothing is known of its own episodes. {subject.plant.why}")
    return Maybe.of(lambda: agent.trajectory(plant, OWN_STEPS, subject.asked.seed))


def _first_rows(subject: Subject, agent: Agent) -> Transition | None:
    """The log's first rows, as the agent sees them; None where they are of another plant."""
    log = subject.log
    if log is None or log.obs_size != agent.spaces.observation.size:
        return None
    return log.augmented(agent.augmented).transitions(slice(0, OWN_STEPS))


def _of_log(subject: Subject, agent: Agent) -> Maybe[dict[str, float]]:
    """Figures on rows that somebody logged; none where there are none."""
    if subject.learned.why:
        return Maybe(None, f"Nothing is told of the log that it learned from: {subject.learned.why}")
    rows = _first_rows(subject, agent)
    return Maybe({}) if rows is None else Maybe.of(lambda: health_figures(agent, rows, subject.log))


def _own_figures(subject: Subject, agent: Agent, rows: Transition | None) -> dict[str, float]:
    figures = {} if rows is None else health_figures(agent, rows)
    rows = _first_rows(subject, agent) if rows is None else rows
    run = subject.run
    if rows is not None and run is not None and run.best.is_dir() and run.last.is_dir():
        best, last = (Subject(path, subject.asked).agent.value for path in (run.best, run.last))
        if best is not None and last is not None:
            figures |= drift_figures(best, last, np.asarray(rows.obs, np.float32))
    return figures


def _gap(agent: Agent, rows: Transition) -> tuple[dict[str, float], list[AbstractBlock]]:
    """Proven, where that takes a moment; else a lower bound, which is the same each time."""
    if agent.nets.critic is None:
        raise UserError(f"{agent.algorithm.name} has no critic to compare its policy with.")
    places = np.linspace(0, len(rows.reward) - 1, GAP_AT).astype(int)
    obs = np.asarray(rows.obs, np.float32)[places]
    proven = Maybe.of(lambda: agent.gap(obs, time_limit=GAP_SECONDS, state_time_limit=STATE_SECONDS))
    if proven.value is not None and {Status(one) for one in proven.value.status} <= UNHURRIED:
        summary = proven.value.summary(WITHIN)
        table = [
            [name, *(f"{summary[f'{end}_{name}']:.4g}" for end in ENDS)]
            + [f"{summary[f'relative_{end}_{name}']:.2%}" for end in ENDS]
            for name in ("median", "p95", "worst")
        ]
        head = ["gap over states", "lower", "upper", "lower, share of the range of q", "upper"]
        soft = f" (its temperature allows {summary['softness']:.3g} for its entropy)" if summary["softness"] else ""
        said = f"The gap max_a q(s, a) − q(s, π(s)) on {GAP_AT} states{soft}, proven:"
        judged = {name: summary[name] for name in ("actor_fails", "undecided")}
        return judged, [Said(said), Table(head, table)]
    if not agent.nets.critic.has_gradient or agent.nets.policy is None:
        raise UserError(proven.why or "its proof takes longer; `fittedq inspect --gap` takes the time.")
    lower = gap_figures(agent.nets, np.asarray(agent.as_seen(rows).obs)[places], agent.reward_scale)
    said = (
        f"The gap max_a q(s, a) − q(s, π(s)) on {GAP_AT} states is at least {lower['gap/lower_median']:.4g} (median) "
        f"and {lower['gap/lower_p95']:.4g} (95th percentile), by a local solver. A proof takes longer than "
        f"{GAP_SECONDS:g} s: `fittedq inspect --gap` takes the time."
    )
    return lower, [Said(said)]


def _promised(agent: Agent, rows: Transition, own: bool) -> list[AbstractBlock]:
    """q(s, a) along the first episodes, beside the discounted return that followed."""
    if agent.nets.critic is None:
        return []
    returns, beyond = discounted_returns(rows, agent.algorithm.discount)
    q = agent.critic_value(np.asarray(agent.as_seen(rows).obs), np.asarray(rows.action, np.float32))
    ends = np.flatnonzero(np.asarray(rows.terminated, bool) | np.asarray(rows.truncated, bool)) + 1
    stops = [*ends.tolist(), *([] if len(ends) and ends[-1] == len(q) else [len(q)])]
    views = []
    for place, (start, stop) in enumerate(zip([0, *stops], stops, strict=False)):
        part = slice(start, stop)
        followed = np.where(beyond[part] <= 0.5, returns[part], np.nan)
        curves = [
            Curve("q(s, a), as promised", np.asarray(q[part], float).tolist()),
            Curve("what followed, discounted", followed.tolist(), color=1),
        ]
        views.append(View(f"episode {place}", list(range(stop - start)), curves))
    whose = "its own episodes" if own else "the log, which another policy may have taken"
    title = f"q and the return that followed, along {whose}; no line where half or more of it lies after the cut"
    return [Lines(title, "sample", "discounted return", views[:3])]


def _estimates(subject: Subject, agent: Agent) -> list[AbstractBlock]:
    """What the controller would earn by the log that was given, before it is tried."""
    held_out = subject.held_out
    if held_out is None:
        text = "No estimate from a log: give rows that it did not learn from, --data HELD_OUT."
        return [Said(text, missing=True)]
    found = Maybe.of(lambda: estimate(agent, held_out, seed=subject.asked.seed))
    if found.value is None:
        return [Said(f"No estimate from the log: {found.why}", missing=True)]
    told = found.value
    rows = [[name, str(interval), said] for name, interval, said in told.lines()]
    worth = Interval(told.value, told.low, told.high)
    first = f"By the log {subject.asked.data} it would earn {worth}: {told.sentence()}"
    notes = [Said(one) for one in (told.agreement, *told.notes)]
    return [Said(first), Table(["estimate", "discounted return [95 %]", "remark"], rows), *notes]
