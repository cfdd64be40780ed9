"""Mixed-integer programs, solved by HiGHS."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fittedq.errors import UserError

FEASIBILITY, LOOSE = 1e-9, 1e-6
"""What HiGHS may violate rows, bounds and integrality by, and its own default, where it fails with less."""


class Sparse(NamedTuple):
    """Rows of a matrix: row i has the values value[start_i : start_{i+1}] in those columns."""

    start: np.ndarray
    column: np.ndarray
    value: np.ndarray

    @staticmethod
    def of(matrix: Float[np.ndarray, "p n"]) -> Sparse:
        """A dense matrix without its zeros."""
        row, column = np.nonzero(matrix)
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(matrix)))])
        return Sparse(start, column, matrix[row, column])


class Program(NamedTuple):
    """max offset + cost · x: low ≤ x ≤ high, row_low ≤ matrix · x ≤ row_high, x_i whole where `integer`."""

    cost: Float[np.ndarray, "n"]
    low: Float[np.ndarray, "n"]
    high: Float[np.ndarray, "n"]
    integer: Bool[np.ndarray, "n"]
    matrix: Sparse
    row_low: Float[np.ndarray, "p"]
    row_high: Float[np.ndarray, "p"]
    offset: float = 0.0


class Answer(NamedTuple):
    """The best x found (None: none), an upper bound of the maximum, whether the search ended, whether none exists.

    `multiplier` are the rows' dual values of a program without whole numbers; rows hold to `tolerance`.
    """

    x: Float[np.ndarray, "n"] | None
    bound: float
    finished: bool
    infeasible: bool
    multiplier: Float[np.ndarray, "p"] | None
    tolerance: float


def highs_module() -> ModuleType:
    """The module `highspy`."""
    try:
        import highspy
    except ImportError:
        raise UserError(
            "milp: highspy is not installed, expected the extra `solvers`; run pip install 'fittedq[solvers]'."
        ) from None
    return highspy


def solve_program(
    label: str, program: Program, *, tol: float = 0.0, time_limit: float = np.inf, tolerance: float = FEASIBILITY
) -> Answer:
    """The program by HiGHS until bound − value ≤ tol · max(1, |value|) or `time_limit` seconds are over."""
    highspy = highs_module()
    mixed = bool(program.integer.any())
    # The C++ class itself: the subclass that highspy exports prints a banner when it is made.
    solver = highspy.Highs.__base__()
    # `threads` stays as it is: HiGHS fails without a word where it changes between models.
    options = {
        "output_flag": False,
        "mip_rel_gap": tol,
        "mip_abs_gap": tol,
        "primal_feasibility_tolerance": tolerance,
        "dual_feasibility_tolerance": tolerance,
        "mip_feasibility_tolerance": tolerance,
    }
    if np.isfinite(time_limit):
        options["time_limit"] = float(time_limit)
    accepted = [solver.setOptionValue(name, value) for name, value in options.items()]
    accepted.append(
        solver.passModel(
            len(program.cost),
            len(program.row_low),
            len(program.matrix.value),
            int(highspy.MatrixFormat.kRowwise),
            int(highspy.ObjSense.kMaximize),
            program.offset,
            program.cost,
            program.low,
            program.high,
            program.row_low,
            program.row_high,
            program.matrix.start.astype(np.int32),
            program.matrix.column.astype(np.int32),
            program.matrix.value,
            program.integer.astype(np.int32),
        )
    )
    if any(status == highspy.HighsStatus.kError for status in accepted):
        raise UserError(f"{label}: HiGHS refused the model; rescale actions and rows to sizes near 1.")
    outcome, status = solver.run(), solver.getModelStatus()
    known = highspy.HighsModelStatus
    infeasible = status == known.kInfeasible
    if outcome == highspy.HighsStatus.kError or not (infeasible or status in (known.kOptimal, known.kTimeLimit)):
        if tolerance < LOOSE:
            return solve_program(label, program, tol=tol, time_limit=time_limit, tolerance=LOOSE)
        raise UserError(
            f"{label}: HiGHS ended with {solver.modelStatusToString(status)!r}; rescale actions and rows to sizes "
            "near 1, or use another maximizer."
        )
    info, solution = solver.getInfo(), solver.getSolution()
    finished = status == known.kOptimal
    feasible = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    bound = info.mip_dual_bound if mixed else info.objective_function_value if finished else np.inf
    return Answer(
        x=np.array(solution.col_value) if feasible and not infeasible else None,
        bound=-np.inf if infeasible else float(bound),
        finished=finished,
        infeasible=infeasible,
        multiplier=np.array(solution.row_dual) if finished and not mixed else None,
        tolerance=tolerance,
    )
