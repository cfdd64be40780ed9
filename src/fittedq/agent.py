"""What training gives: an agent that acts, values, evaluates, and can be saved and loaded."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jaxtyping import Float, UInt

from fittedq import memory
from fittedq.acting.episodes import (
    AbstractController,
    Memoryless,
    Remembering,
    episodes_at_once,
    returns,
    whole_episodes,
)
from fittedq.acting.episodes import episodes as played
from fittedq.acting.familiar import ROWS, Familiarity
from fittedq.acting.guarded import AbstractFallback, Guarded, Hold, Judged, Relief, Steady
from fittedq.acting.loop import SafeLoop
from fittedq.acting.shadow import Shadow
from fittedq.acting.status import Act, ActingStatus, checked_fallback, middle
from fittedq.acting.stepwise import Stepwise
from fittedq.actions.base import AbstractActionSet, Box
from fittedq.actions.limits import inside
from fittedq.actions.saved import action_set_of
from fittedq.algorithms.base import AbstractAlgorithm
from fittedq.algorithms.named import NamedMethod
from fittedq.algorithms.saved import Code, as_saved, code_names, code_to_act, origin, restored
from fittedq.approx.host import host_view, refuse_forked, to_host
from fittedq.arrays import Side, all_finite
from fittedq.baselines.saved import controller_as_saved, restored_controller
from fittedq.code import by_name, refuse_unknown
from fittedq.control.episodes import AugmentedRows
from fittedq.control.state import AugmentedState
from fittedq.data.dataset import Dataset
from fittedq.data.statistics import RunningMoments
from fittedq.diagnose.gap import Gap, amortization_gap
from fittedq.envs.augmented import AugmentedEnv
from fittedq.envs.plant import AbstractPlant, AnyEnv, resolve
from fittedq.envs.registry import NamedEnv, name_of
from fittedq.envs.spaces import AbstractLayout, Spaces, refuse_not_finite, spaces_of
from fittedq.errors import UserError, in_one_line
from fittedq.export.exportable import Exportable
from fittedq.export.folder import digest_of_agent
from fittedq.export.guarding import guard_of
from fittedq.export.host import Host
from fittedq.export.language import AbstractLanguage
from fittedq.export.languages import language_of
from fittedq.export.program import ControlProgram
from fittedq.export.timing import ActsOnce, time_controller
from fittedq.export.verify import SAMPLES
from fittedq.export.writing import check_known, write_export
from fittedq.files import AGENT, Json, load_folder, place, refuse_runs_own, save_folder
from fittedq.maximize.local.refine import checked, refined
from fittedq.programs import keep_programs
from fittedq.settings import MOST_SEED, real, whole
from fittedq.trainers.base import never
from fittedq.trainers.rows import consecutive, evenly
from fittedq.trainers.state import from_arrays, network_shapes, to_arrays
from fittedq.types import AbstractCritic, Components, Transition, sized

HOLD = "hold"
"""The fallback that keeps the action before."""
LEARNED = "learned/rows"
"""Of a tensor in an agent's files."""


class Agent:
    """A policy and its critics, on the host, in the environment's own units."""

    def __init__(
        self,
        algorithm: AbstractAlgorithm,
        obs_size: int,
        action_set: AbstractActionSet,
        nets: Components,
        moments: RunningMoments | None = None,
        env: str | NamedEnv | None = None,
        spaces: Spaces | None = None,
        fallback: object = None,
        reward_scale: float = 1.0,
        method: NamedMethod | None = None,
        augmented: AugmentedState | None = None,
        familiarity: Familiarity | None = None,
        learned: UInt[np.ndarray, "k"] | None = None,
        columns: tuple[str, ...] = (),
    ):
        keep_programs()
        self.algorithm, self.obs_size, self.action_set = algorithm, obs_size, action_set
        self.nets, self.moments = to_host(nets), None if moments is None else to_host(moments)
        self._compiled_critic: AbstractCritic | None = None
        self._policy, self._critic = algorithm.controller(self.nets), host_view(self.nets.critic)
        self.method = method
        """The words that its algorithm was named by, where it is code that was named so."""
        self.env = name_of(env)
        """What it was trained on, by name; where only a file says so, code in it is not run unasked."""
        self.augmented = augmented
        """What its networks see and decide, where that is more than an observation and an action: it remembers then."""
        raw_size = obs_size if augmented is None else augmented.obs_size
        self.spaces = spaces or Spaces.flat(raw_size, action_set.size)
        """How observations are read and actions are shaped: the environment's, else flat vectors."""
        if (self.spaces.observation.size, self.spaces.action.size) != (raw_size, action_set.size):
            raise UserError(
                f"spaces: found {self.spaces.observation.size} observation and {self.spaces.action.size} action "
                f"numbers, expected {raw_size} and {action_set.size}."
            )
        self.reward_scale = reward_scale
        """What rewards were divided by when the critics learned from them: values are given in the rewards' unit."""
        self.familiarity = familiarity
        """How familiar a state is by the data that were learned from; None where too few were, or none is known."""
        self.learned = learned
        """The `sketch_of` the dataset that it learned from, by which its rows are known again; None without one."""
        self.columns = columns
        """What its log called each number of an observation and an action; empty where it said nothing."""
        self._fallback = middle(action_set, obs_size)
        self._relief: AbstractFallback[Any] | None = None
        self._threshold = 0.0
        if fallback is not None:
            self.fallback = fallback

    @property
    def env_id(self) -> str | None:
        """The id it was trained on."""
        return None if self.env is None else self.env.id

    def __repr__(self) -> str:
        low, high = (np.round(bound, 4).tolist() for bound in (self.action_set.low, self.action_set.high))
        kind = "" if self.action_set.describe()["kind"] == "box" else f" ({type(self.action_set).__name__})"
        return (
            f"Agent({self.algorithm.name}{f' on {self.env}' if self.env else ''}: {self.obs_size} observation "
            f"numbers, actions between {low} and {high}{kind})"
        )

    def act(
        self, obs: object, *, refine: int | None = 0, trust: float = 0.1, deadline: float | None = None
    ) -> np.ndarray:
        """π(s), the mode, inside the action set: for one observation or a batch, in the environment's shape and dtype.

        Observations are taken as the environment gives them (dictionaries, tuples, arrays, whole numbers, with a
        leading axis for a batch), or flat, as [s] or [b, s]. One that is not finite raises UserError and names the
        coordinate; `step` never raises.

        `refine` steps of a solver improve it by the critic's own measure, never leaving `trust` half-widths around π(s)
        and never ending worse; `deadline`, in seconds, ends them early. The first call compiles.

        Where `familiar` is below `threshold`, the action is `fallback`; one that remembers (a controller, "hold") is
        refused here, and `controller().loop()` takes it.
        """
        self._check_memoryless("act")
        hint = "; `agent.step` takes a safe action instead of raising"
        rows, single = self._finite(obs, self.spaces.observation, "observation", hint)
        if self._threshold:
            action, strange = self._steady_action(rows), self._known_data("act")(rows) < self._threshold
            action[~strange] = self.act_flat(rows[~strange], refine=refine, trust=trust, deadline=deadline)
        else:
            action = self.act_flat(rows, refine=refine, trust=trust, deadline=deadline)
        return self.spaces.shaped(action[0] if single else action)

    def act_flat(
        self,
        obs: Float[np.ndarray, "b s"],
        *,
        refine: int | None = 0,
        trust: float = 0.1,
        deadline: float | None = None,
    ) -> Float[np.ndarray, "b m"]:
        """`act` in flat vectors, as datasets hold them; of an agent that remembers, in those of `augmented`."""
        steps = checked(refine, trust, deadline)
        action = self._policy_action(obs)
        if steps:
            if self.nets.critic is None or not self.nets.critic.has_gradient:
                raise UserError("found no critic with a gradient; act without it.", argument="refine")
            refuse_forked("refine")
            critic = self._compiled_critic or jax.tree.map(jnp.asarray, self.nets.critic)
            self._compiled_critic = critic
            limits: dict[str, Any] = {"steps": steps, "trust": trust, "deadline": deadline}
            action = refined(critic, self._normalize(obs), action, self.action_set, **limits)
        if not all_finite(action):
            row = int(np.argwhere(~np.isfinite(action))[0, 0])
            raise UserError(
                f"act: the policy's action is {action[row].tolist()} at the observation {obs[row].tolist()}: it lies "
                "too far from what was learned, or learning diverged."
            )
        return action

    def step(self, obs: object) -> tuple[np.ndarray, ActingStatus]:
        """(action, status) for one observation; never raises, for loops that must not stop.

        Where the policy has no finite action for `obs`, whatever it is, the action is `fallback`, moved into A(s) where
        A depends on s and s can be read; `status.sentence` says why. Of an agent that remembers, `loop` has this step.
        """
        self._check_memoryless("step")
        return self.loop().step(obs)

    def loop(
        self, before: object = None, *, over: int | None = None, refine: int | None = 0, trust: float | None = None
    ) -> SafeLoop:
        """`step` for one observation after another, with the memory of one episode, where the agent has one.

        It begins as though the action `before` had been executed until then, by default the middle of its limits. With
        `over` it takes over without a bump: from `before` it moves towards its own action, by at most the range of
        actions / `over` a sample, until it has met it. `refine` and `trust` are those of `export`.
        """
        last = None if before is None else self._finite(before, self.spaces.action, "before")[0][0]
        act = self._solving_action(refine, trust) if refine or trust is not None else self._policy_action
        guard = self.guarded(act, before) if self._threshold else None
        loop = SafeLoop(act, self.spaces, self.action_set, self._fallback, self.augmented, last, guard, self._holds)
        if over is not None:
            if last is None:
                raise UserError("found no action `before` that it goes on from; give both.", argument="over")
            loop.take_over(last, whole(over, "over", 1))
        return loop

    def _solving_action(self, refine: int | None, trust: float | None) -> Act:
        """The program of so many steps, state by state, in double precision."""
        parts = self._exportable
        host = Host(parts.program(refining=parts.refining(refine, trust)), np.float64)

        def act(obs: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b m"]:
            with np.errstate(all="ignore"):
                return np.array([host(row) for row in np.asarray(obs, np.float64)], np.float32)

        return act

    @property
    def limits(self) -> AbstractActionSet:
        """What reaches the plant lies in it, where the agent decides on increments too."""
        return self.action_set if self.augmented is None else self.augmented.limits

    def shadow(self, names: Sequence[str] | None = None) -> Shadow[object]:
        """Beside the controller that is in charge: `step(obs, present)` once a sample, `report()` in the end; actions
        have these `names`."""
        told = tuple(self.spaces.action.names("action")) if names is None else tuple(names)
        return Shadow(self.loop(), told, np.asarray(self.limits.low), np.asarray(self.limits.high))

    def stepwise(self, name: str = "the agent") -> Stepwise:
        """`loop` as a controller, which goes on where a sensor is dead, and counts what it told."""
        return Stepwise(self.loop(), self.spaces.observation.size, self.limits, name)

    @property
    def _exportable(self) -> Exportable:
        return Exportable(
            algorithm=self.algorithm.name,
            env=None if self.env is None else str(self.env),
            nets=self.nets,
            moments=self.moments,
            action_set=self.action_set,
            limits=self.limits,
            obs_size=self.obs_size,
            memory=self.augmented,
            fallback=self._fallback,
            holds=self._holds,
            fallback_in_words=self.fallback_in_words,
            threshold=self._threshold,
            spaces=self.spaces,
            familiarity=self.familiarity,
            columns=self.columns,
        )

    def program(self, *, refine: int | None = 0, trust: float | None = None) -> ControlProgram:
        """The controller in stages, as it is exported; a UserError names what no stage can say."""
        guard = guard_of(self.guarded()) if self._threshold else None
        parts = self._exportable
        return parts.program(guard, parts.refining(refine, trust))

    def export(
        self,
        out: str | Path,
        to: str | AbstractLanguage,
        *,
        data: object = None,
        names: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
        sample: float | None = None,
        samples: int = SAMPLES,
        verify: bool = True,
        timing: bool = False,
        rate: float | None = None,
        refine: int | None = 0,
        trust: float | None = None,
    ) -> dict[str, Any]:
        """The whole controller as files in the folder `out`, and what `export.json` there says of it.

        `to` is a word of `fittedq.export.languages.LANGUAGES`, or such a language with its options. The controller runs
        at so many `samples` beside `loop`; where it differs, a UserError says so and nothing is left at `out`. `data`
        are observations of the plant [N, o], from which samples are made; without them, what the agent knows of its
        data. `names` are those of the observations and then the actions, `units` theirs by name, `sample` the seconds
        between two samples. Without `verify` nothing is compared, which `export.json` says too. With `timing` it says
        how long an action takes in C, NumPy, ONNX, `jax.jit` and here, with a picture of the jitter, and whether each
        keeps up with `rate` actions a second.

        `refine` steps of a solver improve each action by the critic's own measure, never ending lower, within `trust`
        half-widths of the policy's (by default a tenth); without a policy from the best of 16 fixed starts, in all of
        the box. `loop(refine=…)` is the same in Python, and what is compared.
        """
        language, parts = language_of(to), self._exportable
        known = parts.known() if data is None else check_known(np.asarray(data), self.spaces.observation.size)
        number, (arrays, described) = whole(samples, "samples", 100), self._described()
        digest = digest_of_agent(safetensors.numpy.save(arrays), described)
        about, path = parts.about(digest, names, units or {}, sample), place(out, "out")
        program, loop, timed = self.program(refine=refine, trust=trust), self.loop(refine=refine, trust=trust), None
        if timing or rate is not None:
            here: dict[str, ActsOnce] = {"agent.loop().step": loop.step}
            if not refine and self.augmented is None:
                here = {"agent.act": self.act, "jax.jit": parts.compiled()}
            elif not refine:
                here["jax.jit, of the state"] = parts.compiled()
            hertz = None if rate is None else real(rate, "rate", "actions a second above 0", 1e-9, 1e9)
            timed = partial(time_controller, program, about, others=here, known=known, rate=hertz)
        return write_export(language, program, about, loop, known, path, number=number, verify=verify, timed=timed)

    def _check_memoryless(self, name: str) -> None:
        """A UserError where an action depends on more than one observation."""
        if self.augmented is not None:
            raise UserError(
                f"{name}: this agent remembers what came before an observation; `agent.controller().loop()` takes one "
                "observation after another, and `reset` begins an episode."
            )

    @property
    def fallback(self) -> np.ndarray | str | AbstractController[Any]:
        """What acts where the policy has no action, and where `familiar` is below `threshold`.

        An action, by default the admissible point next to the middle; "hold", the action before; or a controller of
        `fittedq.baselines`. `loop` and `controller` remember what these need; `step` alone begins anew at each call.
        """
        if self._relief is None:
            return self.spaces.shaped(self._fallback)
        return self._relief.controller if isinstance(self._relief, Relief) else HOLD

    @fallback.setter
    def fallback(self, value: object) -> None:
        if isinstance(value, str):
            if value != HOLD:
                raise UserError(f"fallback: found {value!r}, expected an action, 'hold' or a controller.")
            self._relief = Hold()
        elif isinstance(value, AbstractController):
            self._relief = Relief(value)
        else:
            self._fallback = checked_fallback(value, self.spaces.action, self.action_set, self.obs_size)
            self._relief = None

    @property
    def _holds(self) -> bool:
        return isinstance(self._relief, Hold)

    @property
    def fallback_in_words(self) -> str:
        """`fallback`, as one tells of it."""
        fallback = self.fallback
        return f"the action {np.round(fallback, 4).tolist()}" if isinstance(fallback, np.ndarray) else str(fallback)

    @property
    def threshold(self) -> float:
        """Where `familiar` is below this, `fallback` acts; 0: never."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: object) -> None:
        threshold = real(value, "threshold", "a number between 0 and 1", high=1.0)
        if threshold:
            self._known_data("threshold")
        self._threshold = threshold

    def _steady_action(self, obs: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b m"]:
        """The fallback in each of these states; a UserError where it depends on what came before."""
        if self._relief is not None:
            raise UserError(
                "act: the fallback of this agent remembers what came before an observation; "
                "`agent.controller().loop()` takes one observation after another, and `reset` begins an episode."
            )
        return np.array(self.action_set.project(np.tile(self._fallback, (len(obs), 1)), obs))

    def _policy_action(self, obs: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b m"]:
        # What overflows on the way is told by an action that is not finite, or has done no harm.
        with np.errstate(over="ignore", invalid="ignore"):
            if len(obs) == 1 and self._host is not None:
                return self._host(obs[0])[None]
            action = self._policy.act(self._normalize(obs), np.zeros((len(obs), self.action_set.size), np.float32))
            return np.asarray(self.action_set.project(action, obs))

    @functools.cached_property
    def _host(self) -> Host | None:
        """The policy in stages, for one state at a time; None where the compiled projection is faster, or stages cannot
        say it."""
        with contextlib.suppress(UserError):
            host = Host(self._exportable.program())
            return host if host.in_batch else None
        return None

    def critic_value(self, seen: Float[np.ndarray, "b s"], action: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "b"]:
        """min_j q_j at states as the critic sees them (normalized, where the agent normalizes)."""
        if self._critic is None:
            raise UserError(f"{self.algorithm.name}: this agent has no critic, so it knows no values.")
        return self.reward_scale * self._critic.least(seen, action)

    def value_range(self, reward: tuple[float, float]) -> tuple[float, float]:
        """[low, high] that holds the q which the critic is fitted to, for rewards in [r_min, r_max]; ±∞ where unknown.

        A controller of known dynamics that is the user's own has a target that no file holds: unknown.
        """
        with contextlib.suppress(UserError):
            for update in self.algorithm.template(self.action_set).updates:
                if update.component == "critic" and update.target is not None:
                    low, high = (end / self.reward_scale for end in reward)
                    low, high = update.target.value_range(self.nets, (low, high))
                    return low * self.reward_scale, high * self.reward_scale
        return -math.inf, math.inf

    def gap(
        self, obs: object, *, tol: float = 1e-2, time_limit: float | None = None, state_time_limit: float | None = 10.0
    ) -> Gap:
        """lower ≤ max_a q(s, a) − q(s, π(s)) ≤ upper for each observation of a batch [b, s], proven.

        q = min_j q_j, as `value` has it; the interval is as narrow as `tol` of the range of q where time allows, and
        holds in any case. `time_limit` is for all states, `state_time_limit` for each, in seconds.
        """
        batch, _ = self._finite(obs, self._layout, "observation")
        if not len(batch):
            raise UserError("gap: found no observations, expected at least one.")
        refuse_forked("the gap")
        seen = np.asarray(self._normalize(batch), np.float32)
        if self.nets.critic is None:
            raise UserError(f"{self.algorithm.name}: this agent has no critic to compare its policy with.")
        limits = {"tol": tol, "time_limit": time_limit, "state_time_limit": state_time_limit}
        temperature = float(self.nets.temperature)
        gap = amortization_gap(
            self.nets.critic, seen, self.act_flat(batch), self.action_set, temperature=temperature, **limits
        )
        return gap.times(self.reward_scale)

    def value(self, obs: object, action: object) -> Float[np.ndarray, "b"] | np.float32:
        """min_j q_j(s, a): the critics' cautious estimate of the discounted return, for one pair or a batch.

        Of an agent that remembers, s and a are those of `augmented`.
        """
        batch, single = self._finite(obs, self._layout, "observation")
        actions, _ = self._finite(action, self.spaces.action, "action")
        if actions.shape[0] != batch.shape[0]:
            raise UserError(
                f"value: found {batch.shape[0]} observations and {actions.shape[0]} actions; "
                "give one action per observation."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            q = self.critic_value(self._normalize(batch), actions)
        if not np.isfinite(q).all():
            row = int(np.argmin(np.isfinite(q)))
            raise UserError(
                f"value: the critic's value is {q[row]} at the observation {batch[row].tolist()}: it lies too far from "
                "what was learned, or learning diverged."
            )
        return q[0] if single else q

    def familiar(
        self, obs: object, *, before: object = None, action: object = None, consecutive: bool = False
    ) -> Float[np.ndarray, "b"] | np.float32:
        """At most this share of the rows that it learned from are as strange as `obs`: 1 for what it knows, 0 for what
        it has never seen (`Familiarity`), for one observation or a batch.

        `before` is the observation one sample earlier, and `action` what was executed then: with them the change since
        is judged too, so that a sensor that stands still is noticed. Of an agent that remembers, `obs` is that of
        `augmented`; where it holds its history, it needs neither.

        Where its familiarity has a window, rows that are `consecutive` samples are each judged together with those
        before it, once there are as many as the window has.
        """
        known = self._known_data("familiar")
        seen, single = self._finite(obs, self._layout, "observation")
        if (before is None) != (action is None):
            raise UserError("familiar: found one of `before` and `action`; give both, or neither.")
        earlier = None
        if before is not None:
            if not known.reads_before:
                raise UserError(
                    "found it for an agent that does not judge it: its observation holds its own history, or it "
                    "learned from too few rows; leave it out.",
                    argument="before",
                )
            parts = (
                self._finite(before, self.spaces.observation, "before")[0],
                self._finite(action, self.spaces.action, "action")[0],
            )
            if {len(part) for part in parts} != {len(seen)}:
                raise UserError(
                    f"familiar: found {len(seen)} observations, {len(parts[0])} before and {len(parts[1])} actions; "
                    "give one of each per observation."
                )
            earlier = np.concatenate(parts, axis=1)
        if consecutive and (known.recent is None or single):
            raise UserError(
                "found it for one sample, or for an agent that judges one at a time; give a batch, to an agent that "
                "has `fittedq.familiarity(agent, dataset, window=10)`.",
                argument="consecutive",
            )
        found = known.seen(seen, known.past(seen, earlier))
        share = found.familiar
        if consecutive and known.recent is not None:
            share = known.recent.along(found, np.arange(len(seen)) > 0)
        return np.float32(share[0]) if single else share.astype(np.float32)

    def known_by(self, dataset: Dataset, window: int = 0) -> Familiarity:
        """`Familiarity` by a dataset in the environment's units, and by `window` samples together; a UserError where
        it is of another plant."""
        found = (dataset.obs_size, dataset.action_size)
        expected = (self.spaces.observation.size, self.spaces.action.size)
        if found != expected:
            raise UserError(
                f"dataset: its rows have {found[0]} observation and {found[1]} action numbers, the agent's have "
                f"{expected[0]} and {expected[1]}; take data of the agent's own plant."
            )
        data = dataset.augmented(self.augmented)
        rows = consecutive(np.arange(len(data)), ROWS, 5 * window) if window else evenly(np.arange(len(data)), ROWS)
        return Familiarity.of(data.transitions(rows), self.augmented, window)

    def _known_data(self, what: str) -> Familiarity:
        if self.familiarity is None:
            raise UserError(
                f"{what}: this agent knows nothing of the data that it learned from: it was saved by an earlier "
                "version, or learned from fewer than 100 rows. `agent.familiarity = fittedq.familiarity(agent, "
                "dataset)` tells it, and so does `fittedq guard --data`."
            )
        return self.familiarity

    def controller(
        self, *, refine: int | None = 0, trust: float = 0.1, deadline: float | None = None, before: object = None
    ) -> AbstractController[Any]:
        """π as any other controller is: in flat vectors, to be evaluated and compared; the numbers are `act`'s.

        An agent that remembers begins an episode as though the action `before` had been executed until then: by default
        the middle of its limits, on a plant that runs the one it runs with.
        """
        act = partial(self.act_flat, refine=refine, trust=trust, deadline=deadline)
        return self.guarded(act, before) if self._threshold else self._unguarded(act, before)

    def _unguarded(self, act: Act, before: object = None) -> AbstractController[Any]:
        if self.augmented is not None:
            last = None if before is None else self._finite(before, self.spaces.action, "before")[0][0]
            return Remembering(act, self.augmented, last)
        if before is not None:
            raise UserError("this agent remembers no action; leave it out.", argument="before")
        return Memoryless(act, self.obs_size, self.action_set)

    def guarded(self, act: Act | None = None, before: object = None) -> Guarded:
        """The policy beside its fallback, at `threshold`."""
        state = self.augmented
        last = None if before is None else self._finite(before, self.spaces.action, "before")[0][0]
        moves = state is not None and state.augmentation.increments
        return Guarded(
            act or self.act_flat,
            self._known_data("threshold"),
            self._threshold,
            self._relief or Steady(tuple(self._fallback.tolist()), moves),
            self.spaces.observation.size,
            self.limits,
            state,
            last,
        )

    def evaluate(
        self,
        env: AnyEnv | AbstractPlant,
        episodes: int = 10,
        seed: int = 0,
        *,
        refine: int | None = 0,
        trust: float = 0.1,
        deadline: float | None = None,
    ) -> Float[np.ndarray, "episodes"]:
        """Undiscounted returns of π over fresh episodes; `refine`, `trust` and `deadline` are `act`'s."""
        found = self.episodes(env, episodes, seed, refine=refine, trust=trust, deadline=deadline)
        return np.array(list(found))

    def episodes(
        self,
        env: AnyEnv | AbstractPlant,
        episodes: int,
        seed: int = 0,
        *,
        refine: int | None = 0,
        trust: float = 0.1,
        deadline: float | None = None,
        stop: Callable[[], bool] = never,
    ) -> Iterator[float]:
        """The returns of `evaluate`, one by one as they come; fewer where `stop()`, asked after every step on the host,
        turns true."""
        episodes, seed = whole(episodes, "episodes", 1), whole(seed, "seed", high=MOST_SEED)
        plant, steps = resolve(env), checked(refine, trust, deadline)
        if self._threshold:
            judged = self.judged(plant, episodes, seed, refine=steps, trust=trust, deadline=deadline, stop=stop)
            yield from (one.total for one in judged)
            return
        if not plant.compiled:
            controller = self.controller(refine=steps, trust=trust, deadline=deadline)
            yield from islice(returns(controller, plant, seed, stop), episodes)
            return
        if steps:
            raise UserError("found a JAX environment, expected a Gymnasium one; evaluate there.", argument="refine")
        for rows in self._at_once(plant, episodes, seed, priced=False):
            yield float(sum(rows.reward.tolist()))

    def judged(
        self,
        env: AnyEnv | AbstractPlant,
        episodes: int,
        seed: int = 0,
        *,
        refine: int | None = 0,
        trust: float = 0.1,
        deadline: float | None = None,
        stop: Callable[[], bool] = never,
    ) -> Iterator[Judged]:
        """`episodes` of the policy beside its fallback, and how often that has acted; always on the host."""
        guarded = self.guarded(partial(self.act_flat, refine=refine, trust=trust, deadline=deadline))
        for rows in islice(played(guarded, resolve(env), seed, stop), episodes):
            strange = guarded.taken_over(rows)
            yield Judged(float(sum(rows.reward.tolist())), len(strange), int(strange.sum()))

    def trajectory(self, env: AnyEnv | AbstractPlant, steps: int, seed: int = 0) -> Transition:
        """At least `steps` transitions of π, three whole episodes or more, one after another, in the environment's
        units; those of an agent that remembers are as `augmented` has them."""
        steps, seed = whole(steps, "steps", 1), whole(seed, "seed", high=MOST_SEED)
        plant = resolve(env)
        if plant.compiled:
            return whole_episodes(self._at_once(plant, max(3, steps), seed, priced=True), steps)
        each = played(self._unguarded(self.act_flat), plant, seed)
        return whole_episodes((self._augmented_rows(rows) for rows in each), steps)

    def _augmented_rows(self, rows: Transition) -> Transition:
        """One episode of its own as its networks see it."""
        state = self.augmented
        if state is None:
            return rows
        middle = np.asarray(state.limits.center, np.float32)
        return AugmentedRows(state, rows._asdict(), np.zeros(1, np.int64), middle)(slice(None))

    def _at_once(self, plant: AbstractPlant, number: int, seed: int, priced: bool) -> list[Transition]:
        """Episodes of a JAX environment, in one compiled loop; changes of the action cost something where `priced`."""
        refuse_forked("evaluation in a compiled environment")
        state = self.augmented
        size = self.obs_size if state is None else state.obs_size
        own = plant.action_set
        if plant.obs_size != size or not inside(self.limits, Box(own.low, own.high)):
            raise UserError("environment: its observations or actions differ from those the agent was trained on.")
        policy, moments = jax.device_put((self.nets.policy, self.moments))
        env = plant.env if state is None else AugmentedEnv(plant.env, state, priced)
        return episodes_at_once(policy, moments, env, number, seed)

    def as_seen(self, rows: Transition) -> Transition:
        """Transitions as the networks see them: normalized, where the agent normalizes."""
        obs, next_obs = (np.asarray(self._normalize(part), np.float32) for part in (rows.obs, rows.next_obs))
        return rows._replace(obs=obs, next_obs=next_obs)

    def measure(self, rows: Transition) -> dict[str, float]:
        """`AbstractAlgorithm.measure` of this agent along consecutive transitions in the environment's units."""
        refuse_forked("measuring")
        key = jax.random.key_data(jax.random.key(0))
        return self.algorithm.measure(jax.tree.map(jnp.asarray, self.nets), self.as_seen(rows), 1, key)[1]

    def save(self, path: str | Path, *, origin: Mapping[str, Any] | None = None) -> None:
        """A folder of tensors and a manifest, whole or not there; only an agent's folder is replaced, and no run's own.

        `origin` (JSON) says where it came from.
        """
        refuse_runs_own(place(path, "path"), "path")
        self.keep(path, origin=origin)

    def keep(self, path: str | Path, *, origin: Mapping[str, Any] | None = None) -> None:
        """`save`, also where a run keeps its own: for the run itself."""
        folder, (arrays, agent) = place(path, "path"), self._described()
        try:
            about = json.loads(json.dumps(dict(origin or {}), allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            raise UserError(f"found {origin!r}, expected a dictionary that JSON holds.", argument="origin") from None
        try:
            save_folder(folder, AGENT, arrays, {"agent": agent, "origin": about})
        except OSError as error:
            raise UserError(f"agent folder {path} cannot be written ({error.strerror}); choose another path.") from None

    @staticmethod
    def load(path: str | Path, code: Code = None, trust_code: Sequence[str] = ()) -> Agent:
        """The agent of `save`; its networks are built from its settings, its environment is not.

        No file holds code. What the agent needs of it is given again as `code`: the algorithm, where it is not in the
        registry, or a dictionary by name, {"features": φ}, or {"action_set": s} where its bounds are functions of the
        state. A module or file that only the agent's folder names, for its method or its environment, is
        imported where `trust_code` names it too.
        """
        arrays, manifest = load_folder(place(path, "path"), AGENT)
        return _rebuilt(arrays, manifest.get("agent"), str(path), by_name(code), trust_code)

    def _described(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(tensors, JSON): all there is to say of an agent, save code of the user's."""
        arrays = to_arrays("nets", self.nets)
        if self.moments is not None:
            arrays |= to_arrays("moments", self.moments)
        if self.familiarity is not None:
            arrays |= self.familiarity.arrays()
        if self.learned is not None:
            arrays |= {LEARNED: self.learned}
        return arrays, {
            "algorithm": self.algorithm.name,
            **origin(self.algorithm, self.method),
            "settings": as_saved(self.algorithm),
            "obs_size": self.obs_size,
            "action_set": self.action_set.describe(),
            "normalized": self.moments is not None,
            "env": None if self.env is None else self.env.describe(),
            "spaces": self.spaces.describe(),
            "fallback": self._fallback.tolist(),
            **self._described_guard(),
            **({} if self.augmented is None else {"augmented": self.augmented.describe()}),
            **({} if self.reward_scale == 1.0 else {"reward_scale": self.reward_scale}),
            **({"columns": list(self.columns)} if self.columns else {}),
        }

    def _described_guard(self) -> dict[str, Any]:
        """What acts instead of the policy, and where, unless that is nowhere."""
        match self._relief:
            case None:
                relief = {}
            case Relief():
                relief = {"relief": controller_as_saved(self._relief.controller)}
            case _:
                relief = {"relief": {"kind": HOLD}}
        return relief | ({"threshold": self._threshold} if self._threshold else {})

    def __reduce__(self) -> tuple[Any, tuple[str, bytes]]:
        """Its own bytes, tensors and JSON, for `pickle` and other processes."""
        code = code_to_act(self.algorithm) + ["action_set"] * (self.action_set.reads is None)
        if code:
            raise UserError(
                f"agent: {' and '.join(code)} {'is' if len(code) == 1 else 'are'} code, and no bytes hold code; save "
                "it, and load it where it is needed with code=…."
            )
        arrays, agent = self._described()
        return _from_bytes, (json.dumps(agent), safetensors.numpy.save(arrays))

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        nets, moments = (jax.tree.map(np.array, part) for part in (self.nets, self.moments))
        other = Agent(
            self.algorithm,
            self.obs_size,
            self.action_set,
            nets,
            moments,
            self.env,
            self.spaces,
            self._fallback,
            self.reward_scale,
            self.method,
            self.augmented,
            self.familiarity,
            self.learned,
            self.columns,
        )
        other._relief, other._threshold = copy.deepcopy(self._relief), self._threshold
        return other

    @property
    def _layout(self) -> AbstractLayout:
        """How states that the critics judge are read: as observations, or flat where the agent remembers."""
        flat = Spaces.flat(self.obs_size, self.action_set.size)
        return (self.spaces if self.augmented is None else flat).observation

    def _normalize(self, obs: Side) -> Side:
        return obs if self.moments is None else self.moments.normalize(obs)

    def _finite(
        self, value: object, layout: AbstractLayout, name: str, hint: str = ""
    ) -> tuple[Float[np.ndarray, "b n"], bool]:
        """(rows, whether it is one) of an observation or action, or a UserError that says what is wrong with it."""
        rows, single = layout.read_flat(value, name)
        refuse_not_finite(rows, layout, name, hint)
        return rows, single


def _rebuilt(
    arrays: dict[str, np.ndarray], saved: Json, where: str, code: Mapping[str, Any], trust_code: Sequence[str] = ()
) -> Agent:
    """The agent that `Agent._described` tells of; `where` it was found, for sentences."""
    try:
        algorithm = restored(saved, code, where, trust_code=trust_code)
        refuse_unknown(code, code_names(algorithm))
        obs_size, action_set = int(saved["obs_size"]), action_set_of(_description(saved), code.get("action_set"))
        normalized, env = bool(saved["normalized"]), NamedEnv.of(saved["env"], where)
        env = env and env.trusted(trust_code)
        method = NamedMethod.of(saved.get("method"), where)
        spaces, fallback = saved.get("spaces"), saved.get("fallback")
        augmented = saved.get("augmented") and AugmentedState.described(
            saved["augmented"], where, code.get("action_set")
        )
        reward_scale = real(saved.get("reward_scale", 1.0), "reward_scale", "a number above 0", low=1e-30)
        size = memory.network_bytes(algorithm.layers(obs_size, action_set.size), batch=0)
        columns = tuple(map(str, saved.get("columns", ())))
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: the manifest is no agent's ({in_one_line(error)}).") from None
    if augmented is not None and (augmented.size, augmented.action_set) != (obs_size, action_set):
        raise UserError(f"{where}: what its networks see does not fit their sizes; it is damaged.")
    if obs_size < 1:
        raise UserError(f"{where}: found observations of {obs_size} numbers, expected at least one; it is damaged.")
    memory.require(size, f"{where}: its networks", "it is damaged, or for a larger machine")
    shapes = network_shapes(algorithm, obs_size, action_set)
    like = sized(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes), arrays)
    moments = (
        from_arrays("moments", RunningMoments.start(obs_size, action_set.reads or ()), arrays) if normalized else None
    )
    nets = from_arrays("nets", like, arrays)
    read = None if spaces is None else spaces_of(spaces)
    known = Familiarity.restored(arrays, obs_size, where)
    agent = Agent(
        algorithm,
        obs_size,
        action_set,
        nets,
        moments,
        env,
        read,
        fallback,
        reward_scale,
        method,
        augmented,
        known,
        _sketch_in(arrays, where),
        columns,
    )
    relief = saved.get("relief")
    if relief is not None:
        agent.fallback = HOLD if relief == {"kind": HOLD} else restored_controller(relief, where)
    agent.threshold = saved.get("threshold", 0.0)
    return agent


def _sketch_in(arrays: Mapping[str, np.ndarray], where: str) -> UInt[np.ndarray, "k"] | None:
    found = arrays.get(LEARNED)
    if found is not None and (found.dtype != np.uint64 or found.ndim != 1 or not len(found)):
        raise UserError(f"{where}: {LEARNED} holds no hashes of rows; it is damaged.")
    return found


def _from_bytes(agent: str, tensors: bytes) -> Agent:
    return _rebuilt(safetensors.numpy.load(tensors), json.loads(agent), "an agent's bytes", {})


def _description(saved: Mapping[str, Any]) -> Json:
    """The action set in an agent's manifest; before version 0.2 it was two lists, a box."""
    return saved.get("action_set") or {"kind": "box", "low": saved["action_low"], "high": saved["action_high"]}
