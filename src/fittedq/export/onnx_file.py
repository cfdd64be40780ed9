"""A controller as an ONNX graph: (observation, history) → (action, status, history), each with a batch axis.

The graph is the whole controller, with the pre- and postprocessing. ONNX has no state, so what a controller remembers
goes in as `history_in` and comes out as `history_out`: [z, u, begun], the last sample that was kept, the last action,
and 1 once there was a sample. What a guard keeps beside that is `guard_in` and `guard_out`, in double precision. An
episode begins with `history_start` and `guard_start`, which the file's metadata hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, NamedTuple, final

import numpy as np
from jaxtyping import Float

from fittedq.acting.status import ActingStatus
from fittedq.control.augmentation import Error
from fittedq.control.state import AugmentedState
from fittedq.errors import UserError
from fittedq.export import onnx_solver
from fittedq.export.language import About, AbstractFollowing, AbstractLanguage, AbstractRunning, Golden
from fittedq.export.onnx_graph import Graph, onnx
from fittedq.export.onnx_guard import guard_nodes, kept_sizes, unpacked
from fittedq.export.onnx_stages import change_ends, through
from fittedq.export.program import ControlProgram, Edges

SAID_IN_ONNX = (onnx_solver,)
"""The modules that say as nodes what this one writes."""
OPSET = 17
"""Old enough for most runtimes, which read older ones."""
IR_VERSION = 8
"""The file format that belongs to it."""


# ---------------------------------------------------------------------- the controller


class Past(NamedTuple):
    """What an episode left: the z that was kept last (None where there is no memory), the action that was executed
    last, whether there was a sample."""

    seen: str | None
    executed: str
    begun: str


def _past(program: ControlProgram, graph: Graph, history: str) -> Past:
    z, m = 0 if program.memory is None else program.seen, program.action_size
    begun = graph("Greater", graph.columns(history, z + m, z + m + 1), graph.number(0.5))
    return Past(graph.columns(history, 0, z) if z else None, graph.columns(history, z, z + m), begun)


def _differences(errors: Sequence[Error], graph: Graph, obs: str) -> str:
    """y − set-point, a column each."""
    held = graph.own("has_set_point", np.array([error.set_point is not None for error in errors]))
    value = graph.own("set_point", np.array([error.value for error in errors], np.float32))
    point = graph.picked(obs, [error.set_point or 0 for error in errors])
    measured = graph.picked(obs, [error.measured for error in errors])
    return graph("Sub", measured, graph("Where", held, point, value))


def _remembered(memory: AugmentedState, graph: Graph, obs: str, past: Past) -> str:
    """z of an observation, as `numeric.remembered` has it."""
    assert past.seen is not None
    added, o, m = memory.augmentation, memory.obs_size, memory.limits.size
    errors = [*added.errors, *added.integrals]
    parts, first, begin = [obs], o + len(added.errors), o + len(errors)
    end = begin + (added.history - 1) * o
    if errors:
        difference = _differences(errors, graph, obs)
        parts.append(graph.columns(difference, 0, len(added.errors)))
        gain = graph("Mul", graph.columns(difference, len(added.errors), len(errors)), graph.number(added.sample or 1))
        total = graph("Where", past.begun, graph.columns(past.seen, first, begin), graph.number(0))
        limit = added.integral_limit or np.inf
        parts.append(graph.between(graph("Add", total, gain), graph.number(-limit), graph.number(limit)))
    if end > begin:
        earlier = graph.joined(graph.columns(past.seen, 0, o), graph.columns(past.seen, begin, end - o))
        parts.append(graph("Where", past.begun, earlier, graph.joined(*[obs] * (added.history - 1))))
    if memory.lags:
        moved = graph("Sub", past.executed, graph.own("center", np.asarray(memory.limits.center, np.float32)))
        unit = graph("Div", moved, graph.own("half_width", np.asarray(memory.limits.half_width, np.float32)))
        earlier = graph.joined(unit, graph.columns(past.seen, end, end + (memory.lags - 1) * m))
        parts.append(graph("Where", past.begun, earlier, graph.joined(*[unit] * memory.lags)))
    return graph.joined(*parts)


def _limited(edges: Edges, graph: Graph, action: str, z: str) -> str:
    """[b, 1]: whether the action is held back, as `numeric.on_edge` has it."""
    wide = graph.double(action)
    if edges.changes is None:
        rows = graph("MatMul", wide, graph.own("matrix", np.ascontiguousarray(edges.matrix.T)))
        return graph.any(graph("GreaterOrEqual", rows, graph.own("bound", edges.bound)))
    near, (low, high) = graph.own("near", edges.near), change_ends(edges.changes, graph, z)
    below = graph("LessOrEqual", wide, graph("Add", graph.double(low), near))
    return graph.any(graph("Or", below, graph("GreaterOrEqual", wide, graph("Sub", graph.double(high), near))))


def _wanted(program: ControlProgram, graph: Graph, past: Past | None, action: str) -> str:
    """Where an action leads: to itself, or by it from the action before."""
    return action if past is None or program.rate is None else graph("Add", past.executed, action)


def _reached(program: ControlProgram, graph: Graph, past: Past | None, wanted: str) -> str:
    """What is wanted, no further from the action before than the rate, and within the limits."""
    if past is None or program.rate is None:
        return wanted
    rate = graph.own("rate", program.rate)
    near = graph.between(wanted, graph("Sub", past.executed, rate), graph("Add", past.executed, rate))
    return graph.between(near, graph.own("low", program.low), graph.own("high", program.high))


def _written(program: ControlProgram, graph: Graph) -> None:
    """All nodes, from `observation` and what goes in of `carried` to `action`, `status` and what comes out of it."""
    memory, obs, z = program.memory, "observation", "observation"
    graph.within("memory")
    past = _past(program, graph, "history_in") if program.remembers else None
    if memory is not None and past is not None:
        z = _remembered(memory, graph, obs, past)
    action = _decided(program, graph, z)
    graph.within("decision")
    measured, decided = graph.finite(obs), graph.finite(action)
    status = _status(program, graph, decided, action, z)
    action = _wanted(program, graph, past, action)
    watched, guarding = unpacked(graph, "guard_in", kept_sizes(program)), None
    if program.guard is not None and past is not None:
        guarding = guard_nodes(program.guard, graph, obs, z, past.executed, watched)
        relief = through(program.guard.lines, graph, guarding.relief, "relief_")[-1]
        graph.within("decision")
        action = graph("Where", guarding.strange, relief, action)
        status = graph("Where", guarding.strange, _word(graph, ActingStatus.UNFAMILIAR), status)
        decided = graph("Or", guarding.strange, decided)
    kept = graph("And", measured, decided)
    wanted = graph("Where", kept, action, _fallback(program, graph, past))
    graph("Identity", _reached(program, graph, past, wanted), out="action")
    status = graph("Where", measured, status, _word(graph, ActingStatus.NOT_FINITE))
    graph("Squeeze", status, graph.whole_number([1]), out="status")
    if past is not None:
        seen = [] if past.seen is None else [graph("Where", kept, z, past.seen)]
        begun = graph.single(graph("Or", past.begun, kept))
        graph("Concat", *seen, "action", begun, axis=1, out="history_out")
    if guarding is not None and watched:
        left = guarding.left_out(graph, watched)
        parts = [graph("Where", kept, guarding.kept[name], left[name]) for name in watched]
        graph("Concat", *parts, axis=1, out="guard_out")


def _decided(program: ControlProgram, graph: Graph, z: str) -> str:
    """The policy's action, in double precision on its way where the program is."""
    graph.wide = program.in_double
    action = through(program.lines, graph, graph.double(z) if graph.wide else z)[-1]
    graph.wide = False
    return graph.single(action) if program.in_double else action


def _fallback(program: ControlProgram, graph: Graph, past: Past | None) -> str:
    """What acts where the policy has no action."""
    if program.holds and past is not None:
        return past.executed
    return _wanted(program, graph, past, graph.own("fallback", program.fallback[None]))


def _word(graph: Graph, status: ActingStatus) -> str:
    return graph.whole_number([[int(status)]])


def _status(program: ControlProgram, graph: Graph, decided: str, action: str, z: str) -> str:
    """[b, 1]: the `ActingStatus` of the policy at what was measured."""
    status = _word(graph, ActingStatus.OK)
    if program.edges is not None:
        limited = _limited(program.edges, graph, action, z)
        status = graph("Where", limited, _word(graph, ActingStatus.LIMITED), status)
    return graph("Where", decided, status, _word(graph, ActingStatus.FAILED))


def carried(program: ControlProgram) -> dict[str, np.ndarray]:
    """What goes in as `…_in` and comes out as `…_out`, by name: its numbers where an episode begins."""
    if not program.remembers:
        return {}
    seen = np.zeros(0 if program.memory is None else program.seen, np.float32)
    kept = np.zeros(sum(kept_sizes(program).values()))
    history = np.concatenate([seen, program.start, np.zeros(1, np.float32)])
    return {"history": history} | ({"guard": kept} if len(kept) else {})


def _told(about: About) -> dict[str, str]:
    """What the file says of itself."""
    said = {"about": about.sentence, "statuses": {status.name: int(status) for status in ActingStatus}, **asdict(about)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}


@final
@dataclass(frozen=True)
class OnnxModel(AbstractLanguage):
    """`controller.onnx`, with the memory as an input and an output."""

    name: ClassVar[str] = "onnx"
    title: ClassVar[str] = f"an ONNX model of operator set {OPSET}"

    def files(self, program: ControlProgram, about: About, golden: Golden) -> dict[str, bytes]:
        del golden
        return {"controller.onnx": onnx_file(program, _told(about))}

    @contextmanager
    def running(self, folder: Path) -> Iterator[AbstractRunning]:
        yield OnnxSession(folder / "controller.onnx")


@final
class OnnxSession(AbstractFollowing):
    """The model in ONNX Runtime, on one core."""

    def __init__(self, path: Path):
        try:
            runtime = import_module("onnxruntime")
        except ImportError:
            raise UserError(
                "export: an ONNX model is run beside the agent by the package onnxruntime; install fittedq[export], or "
                "write it without being run (--unverified, verify=False)."
            ) from None
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        about = self._session.get_modelmeta().custom_metadata_map
        kinds = {"history": np.float32, "guard": np.float64}
        self._start = {
            name: np.array(json.loads(about[f"{name}_start"]), kind)[None]
            for name, kind in kinds.items()
            if f"{name}_start" in about
        }
        self.reset()

    def reset(self, before: Float[np.ndarray, "m"] | None = None) -> None:
        self._carried = dict(self._start)
        if before is not None:
            self.follow(before)

    def follow(self, executed: Float[np.ndarray, "m"]) -> None:
        if "history" in self._carried and np.isfinite(executed).all():
            # The last numbers are the action before, and whether there was a sample.
            history = np.array(self._carried["history"], np.float32)
            history[0, -1 - len(executed) : -1] = executed
            self._carried["history"] = history

    def step(self, obs: Float[np.ndarray, "o"]) -> tuple[Float[np.ndarray, "m"], int]:
        given = {"observation": np.asarray(obs, np.float32)[None]}
        given |= {f"{name}_in": value for name, value in self._carried.items()}
        action, status, *after = self._session.run(None, given)
        self._carried = dict(zip(self._carried, after, strict=True))
        return action[0], int(status[0])


def onnx_file(program: ControlProgram, about: Mapping[str, str]) -> bytes:
    """The model as a file's content; `about` becomes its metadata."""
    graph, lib = Graph(), onnx()
    _written(program, graph)
    tensor, float32 = lib.helper.make_tensor_value_info, lib.TensorProto.FLOAT
    inputs = [tensor("observation", float32, ["batch", program.obs_size])]
    outputs = [
        tensor("action", float32, ["batch", program.action_size]),
        tensor("status", lib.TensorProto.INT64, ["batch"]),
    ]
    about = dict(about)
    for name, start in carried(program).items():
        kind = lib.helper.np_dtype_to_tensor_dtype(start.dtype)
        inputs.append(tensor(f"{name}_in", kind, ["batch", len(start)]))
        outputs.append(tensor(f"{name}_out", kind, ["batch", len(start)]))
        about[f"{name}_start"] = json.dumps(start.tolist())
    constants = [lib.numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    made = lib.helper.make_graph(graph.nodes, "fittedq_controller", inputs, outputs, constants)
    opset = [lib.helper.make_opsetid("", OPSET)]
    model = lib.helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION, producer_name="fittedq")
    lib.helper.set_model_props(model, about)
    lib.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)
