"""The reader of Structured Text: what a PLC computes, and what its compiler refuses."""

from __future__ import annotations

import numpy as np
import pytest

from fittedq.errors import UserError
from fittedq.export.st_reader import read_block


def block(body: str, variables: str = "", inputs: str = "x : REAL;", outputs: str = "y : REAL;"):
    sections = f"VAR_INPUT {inputs} END_VAR VAR_OUTPUT {outputs} END_VAR {variables}"
    return read_block(f"FUNCTION_BLOCK Test\n{sections}\n{body}\nEND_FUNCTION_BLOCK\n")


def run(body: str, variables: str = "", **inputs):
    return block(body, variables).instances()(**inputs)["y"]


def test_every_operation_on_real_rounds_to_single_precision():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=50).astype(np.float32)
    table = ", ".join(f"{weight:.9e}" for weight in weights)
    variables = f"VAR CONSTANT w : ARRAY[0..49] OF REAL := [{table}]; END_VAR VAR i : DINT; END_VAR"
    found = run("y := 0.1; FOR i := 0 TO 49 DO y := y + w[i] * x; END_FOR;", variables, x=x)
    expected = np.full(1000, 0.1, np.float32)
    for weight in weights:
        expected = expected + weight * x
    assert found.dtype == np.float32 and (found == expected).all()
    double = np.cumsum(np.append(0.1, weights.astype(float)))[-1]
    assert (found != (0.1 + (double - 0.1) * x.astype(float)).astype(np.float32)).any()


def test_long_real_keeps_double_precision():
    variables = "VAR z : LREAL; END_VAR"
    tenth = run("z := 0.1; z := z + 1.0E8; y := LREAL_TO_REAL(z - 1.0E8);", variables)
    assert tenth == np.float32((0.1 + 1e8) - 1e8) != np.float32(np.float32(1e8 + 0.1) - np.float32(1e8))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1.0 + 2.0 * 3.0", 7),
        ("-x * x", -9),
        ("(1.0 + 2.0) * x", 9),
        ("7.0 - 2.0 - 1.0", 4),
        ("8.0 / 2.0 / 2.0", 2),
        ("MIN(x, 2.0) + MAX(x, 5.0)", 7),
        ("LIMIT(-1.0, x, 1.0)", 1),
        ("SEL(x > 2.0 AND NOT (x >= 4.0) OR FALSE, 0.0, 2.5)", 2.5),
        ("SQRT(ABS(-x * x))", 3),
        ("LN(EXP(x))", 3),
        ("DINT_TO_REAL(-7 / 2)", -3),
        ("DINT_TO_REAL(-7 MOD 2)", -1),
        ("DINT_TO_REAL(7 MOD -4)", 3),
    ],
)
def test_expressions_have_the_standard_precedence_and_functions(expression, value):
    assert run(f"y := {expression};", x=3.0) == pytest.approx(value, rel=1e-6)


def test_branches_and_counters_are_those_of_one_instance_after_another():
    body = """
    calls := calls + 1;
    IF x > 1.0 THEN
        IF calls MOD 2 = 0 THEN above := above + 1; y := DINT_TO_REAL(above); ELSE y := x; END_IF;
    ELSIF x < -1.0 THEN y := t[calls MOD 3];
    ELSE y := last[0]; END_IF;
    FOR i := 1 TO 0 BY -1 DO last[i] := SEL(i = 1, x, last[1]); END_FOR;
    t[SEL(x > 0.0, 0, 2)] := x;
    """
    variables = """VAR calls : DINT; above : DINT; i : DINT; last : ARRAY[0..1] OF REAL;
    t : ARRAY[0..2] OF REAL := [1.0, 2(5.0)]; END_VAR"""
    x = 3 * np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    together, each = block(body, variables).instances(), [block(body, variables).instances() for _ in range(6)]
    for row in x:
        found = together(x=row)["y"]
        assert found.tolist() == [float(one(x=entry)["y"]) for one, entry in zip(each, row, strict=True)]
    together.begin()
    assert (together(x=np.zeros(6))["y"] == 0).all()


def test_a_number_that_is_not_finite_is_told_without_a_branch_on_it():
    found = run("y := SEL(ABS(x) <= 3.4028235E38, 1.0, 0.0);", x=np.array([1, np.nan, np.inf, -np.inf, 3.4e38]))
    assert found.tolist() == [0, 1, 1, 1, 0]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("y := n;", "found DINT, expected REAL"),
        ("y := x + n;", "does not mix"),
        ("y := x + 1;", "does not mix"),
        ("n := 1.0;", "found a number, expected DINT"),
        ("y := z;", "found LREAL, expected REAL"),
        ("x := 1.0;", "not to be written"),
        ("k := 1.0;", "not to be written"),
        ("FOR n := 0 TO 3 DO n := 1; END_FOR;", "not to be written"),
        ("FOR n := 0 TO 3 BY 0 DO y := 1.0; END_FOR;", "step of 0"),
        ("IF x THEN y := 1.0; END_IF;", "expected BOOL"),
        ("y := a;", "an array"),
        ("y := x[0];", "no array"),
        ("y := MIN(x);", "1 arguments, expected 2"),
        ("y := q;", "no variable Q"),
        ("y := 1.0", "expected ';'"),
        ("y := 5 $ 3;", "cannot read '$ 3"),
        ("IF x > 0.0 THEN y := 1.0;", "expected a name"),
        ("n := 3000000000;", "no DINT holds"),
        ("y := " + 2000 * "(" + "1.0" + 2000 * ")" + ";", "nested too deeply"),
    ],
)
def test_what_a_compiler_of_a_plc_refuses_is_refused_with_its_line(body, sentence):
    variables = "VAR n : DINT; z : LREAL; a : ARRAY[0..1] OF REAL; END_VAR VAR CONSTANT k : REAL := 1.0; END_VAR"
    with pytest.raises(UserError, match=r"^structured text|^found") as error:
        block(body, variables)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ("VAR CONSTANT k : REAL; END_VAR", "has no value"),
        ("VAR a : ARRAY[0..2] OF REAL := [1.0, 2.0]; END_VAR", "found 2 values, expected 3"),
        ("VAR x : REAL; END_VAR", "is taken"),
        ("VAR a : REAL := 1; END_VAR", "a decimal point"),
        ("VAR a : INT; END_VAR", "expected 'REAL'"),
    ],
)
def test_declarations_are_checked(declared, sentence):
    with pytest.raises(UserError, match=sentence):
        block("y := x;", declared)


@pytest.mark.parametrize(("index", "sentence"), [("2", "index 2"), ("n - 1", "index -1"), ("SEL(x > 0.0, 0, 9)", "9")])
def test_an_index_outside_its_array_is_an_error(index, sentence):
    started = block(f"y := a[{index}];", "VAR n : DINT; a : ARRAY[0..1] OF REAL; END_VAR").instances()
    with pytest.raises(UserError, match=f"A: found|a: found.*{sentence}"):
        started(x=np.array([1.0, -1.0]))


def test_whole_numbers_that_overflow_are_an_error_not_a_wrong_number():
    with pytest.raises(UserError, match="no DINT holds"):
        run("n := 2147483647; n := n + 1;", "VAR n : DINT; END_VAR")
    with pytest.raises(UserError, match="divided by 0"):
        run("n := 1 / n;", "VAR n : DINT; END_VAR")
