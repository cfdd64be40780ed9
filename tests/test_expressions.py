"""Formulas of columns: their values, and a sentence for all that is none."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fittedq.errors import UserError
from fittedq.expressions import Expression

COLUMNS = {
    "temp": np.array([90.0, 93.0, 100.0]),
    "u": np.array([0.0, 2.0, 5.0]),
    "d_u": np.array([0.0, 2.0, 3.0]),
    "set,point": np.full(3, 93.0),
}
T, U, D, S = COLUMNS.values()
FORMULAS = {
    "-((temp - 93)/10)**2 - 0.01*d_u**2": -(((T - 93) / 10) ** 2) - 0.01 * D**2,
    '-abs(temp - "set,point")': -abs(T - S),
    "temp - 2 - 1 + u % 2": T - 3 + U % 2,
    "2**-u**0.5": 2 ** -np.sqrt(U),
    "min(temp, 95, 92 + u) - max(u, 1)": np.minimum(np.minimum(T, 95), 92 + U) - np.maximum(U, 1),
    "where(u > 0, 1/u, 7)": np.array([7.0, 0.5, 0.2]),
    "-1 if temp >= 93 else exp(u) + log(temp)": np.where(T >= 93, -1, np.exp(U) + np.log(T)),
    "(0 < u <= 2) + (temp > 99 or u == 0) - (not u)": np.array([0.0, 1.0, 1.0]),
    "sqrt(u) * tanh(temp) and 1 < 2": np.array([0.0, 1.0, 1.0]),
    "clip(temp, 91, 95)": np.clip(T, 91, 95),
    "3": np.full(3, 3.0),
}


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_what_it_says_in_numpy_and_in_jax(text: str) -> None:
    formula = Expression(text)
    values = {name: COLUMNS[name] for name in formula.names}
    found = np.broadcast_to(formula.checked(values, str), (3,))
    np.testing.assert_allclose(found, FORMULAS[text], rtol=1e-12, atol=1e-12)
    compiled = jax.jit(lambda values: jnp.broadcast_to(formula(values, jnp), (3,)))(values)
    np.testing.assert_allclose(compiled, FORMULAS[text], rtol=1e-5, atol=1e-6)


def test_names_are_columns_their_increments_and_those_of_the_next_row() -> None:
    formula = Expression("d_u + next_temp + d_day + µ")
    found = formula.columns(["u", "temp", "d_day", "µ"])
    assert found == {"d_u": ("u", "d_"), "next_temp": ("temp", "next_"), "d_day": ("d_day", ""), "μ": ("µ", "")}
    assert formula.shifts and not Expression("u").shifts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tmp + 1", "there is no column 'tmp'; did you mean 'temp'?"),
        ("temp ^ 2", r"\^ is no power here; write \*\*"),
        ("temp & u", "write `and` for &"),
        ("temp = 3", "with == to compare"),
        ("Temp °C - 2", "names with blanks or other signs in quotes"),
        ("", "cannot be read"),
        ("foo(temp)", "no function 'foo'; did you mean 'floor'?"),
        ("max(temp)", "max has 1 argument, expected 2"),
        ("__import__('os').system('true')", "is no part of a formula"),
        ("().__class__", "is no part of a formula"),
        ("[temp for temp in u]", "is no part of a formula"),
        ("(lambda: 1)()", "is no part of a formula"),
        ("temp[0]", "is no part of a formula"),
        ("abs(*temp)", "is no part of a formula"),
        ("where(1, 2, 3, key=3)", "is no part of a formula"),
        ("None", "is no part of a formula"),
        ("1e999 * temp", "a number beyond 1e308"),
        ("0x" + "f" * 2000, "a number beyond 1e308"),
        ("-" * 5000 + "1", "cannot be read|nested deeper"),
        ("+" * 200 + "1", "nested deeper than 100"),
        ("1" + "+1" * 6000, "has 12,001 letters"),
    ],
)
def test_what_is_no_formula_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        Expression(text).columns(list(COLUMNS))
    assert error.value.on_command_line().startswith("--reward: ")


def test_rows_that_divide_by_zero_are_counted_and_the_first_is_named() -> None:
    with pytest.raises(UserError, match=r"divides by zero in 2 of 4 rows \(the first is line 3: u = 0\)"):
        Expression("1/u").checked({"u": np.array([1.0, 0.0, 2.0, 0.0])}, lambda row: f"line {row + 2}")
    with pytest.raises(UserError, match=r"divides by zero in 2 of 2 rows"):
        Expression("u/1 + 1/u + u/0").checked({"u": np.array([1.0, 2.0])}, str)
    with pytest.raises(UserError, match=r"is not finite in 1 of 2 rows \(the first is line 3: u = -1\)"):
        Expression("log(u)").checked({"u": np.array([1.0, -1.0])}, lambda row: f"line {row + 2}")
    # What is missing is reported where it stands.
    assert np.isnan(Expression("1/u").checked({"u": np.array([np.nan])}, str)).all()
