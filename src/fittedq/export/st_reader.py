"""A reader of Structured Text (IEC 61131-3): the subset that an exported controller is written in, as a PLC runs it.

Types are checked before anything runs, as a PLC's compiler checks them: REAL, LREAL, DINT and BOOL do not mix, and
constants and inputs are not written. An index outside its array is an error where it is met. Each operation on REAL
rounds to single precision.

A block runs for many instances at once: a variable holds one number for all of them, or one for each. A condition that
differs between instances is a mask, under which both branches run.

    block      = "FUNCTION_BLOCK" name {section} {statement} "END_FUNCTION_BLOCK"
    section    = ("VAR" | "VAR_INPUT" | "VAR_OUTPUT") ["CONSTANT"] {name ":" type [":=" initial] ";"} "END_VAR"
    type       = kind | "ARRAY" "[" first ".." last "]" "OF" kind
    statement  = place ":=" expression ";" | if ";" | for ";"
    expression = OR of ANDs of comparisons of sums of products of factors, as in the standard

Source: IEC 61131-3:2013, annex A, of which this is a part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fittedq.arrays import Arr
from fittedq.errors import UserError

TOKEN = re.compile(
    r"(?P<space>\s+|\(\*.*?\*\)|//[^\n]*)"
    r"|(?P<real>\d+\.\d+(?:[eE][+-]?\d+)?)|(?P<whole>\d+)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<sign>:=|\.\.|<=|>=|<>|[-+*/()\[\],:;<>=])",
    re.DOTALL,
)
PLC_TYPES: dict[str, type[np.generic]] = {
    "REAL": np.float32,
    "LREAL": np.float64,
    "DINT": np.int64,
    "BOOL": np.bool_,
}
"""A DINT is wider here than on a PLC, so that what does not fit is seen (`_checked`)."""
SECTIONS = ("VAR", "VAR_INPUT", "VAR_OUTPUT")
_WORDS = (
    "AND ARRAY BY CASE CONSTANT DO ELSE ELSIF END_CASE END_FOR END_FUNCTION END_FUNCTION_BLOCK END_IF END_PROGRAM "
    "END_REPEAT END_STRUCT END_TYPE END_VAR END_WHILE EXIT FALSE FOR FUNCTION FUNCTION_BLOCK IF MOD NOT OF OR PROGRAM "
    "REPEAT RETAIN RETURN STRUCT THEN TO TRUE TYPE UNTIL VAR VAR_EXTERNAL VAR_GLOBAL VAR_INPUT VAR_IN_OUT VAR_OUTPUT "
    "VAR_TEMP WHILE WITH XOR"
)
KEYWORDS = frozenset(_WORDS.split())
"""No name of a variable."""
MOST_DINT = 2**31 - 1
_NUMBERS = ("REAL", "LREAL")
LITERALS = {"a number": _NUMBERS, "a whole number": ("DINT",)}
"""Kinds of a literal, and the kinds that it may become."""

InstanceValue: TypeAlias = Any
"""A number, or an array with one for each instance."""
Evaluate = Callable[["Instances"], InstanceValue]
_Run = Callable[["Instances"], None]


class Typed(NamedTuple):
    """An expression: its kind, and how it is evaluated."""

    kind: str
    value: Evaluate


@dataclass(frozen=True)
class Variable:
    """A declared variable; `size` is None where it is no array."""

    name: str
    kind: str
    section: str
    constant: bool
    first: int = 0
    size: int | None = None
    initial: tuple[float, ...] = (0.0,)

    def begin(self) -> InstanceValue:
        """Its value where an instance begins: a number, a list of them, or the table that a constant array is."""
        kind = PLC_TYPES[self.kind]
        if self.size is None:
            return kind(self.initial[0])
        values = np.array(self.initial, kind)
        return values if self.constant else list(values)


class Instances:
    """Instances of a block, side by side: their variables, and those that run at the moment."""

    def __init__(self, block: FunctionBlock):
        self.block, self.mask = block, None
        self.mask: Arr | None
        self.values: dict[str, InstanceValue] = {}
        self.begin()

    def begin(self) -> None:
        """Every variable takes its initial value."""
        self.values = {name: variable.begin() for name, variable in self.block.variables.items()}

    def __call__(self, **inputs: InstanceValue) -> dict[str, InstanceValue]:
        """One call of the block: an input is a number, an array with one for each instance, or, for an input that is an
        array, a list of such. The outputs are the same."""
        known = {name.upper(): value for name, value in inputs.items()}
        for name, variable in self.block.variables.items():
            if variable.section == "VAR_INPUT" and name in known:
                kind, given = PLC_TYPES[variable.kind], known.pop(name)
                self.values[name] = (
                    np.asarray(given, kind) if variable.size is None else [np.asarray(value, kind) for value in given]
                )
        if known:
            raise UserError(f"{self.block.name}: found no input {next(iter(known))!r}.")
        self.mask = None
        with np.errstate(all="ignore"):
            self.block.run(self)
        outputs = (variable for variable in self.block.variables.values() if variable.section == "VAR_OUTPUT")
        return {variable.name: self.values[variable.name.upper()] for variable in outputs}

    def masked(self, new: InstanceValue, old: InstanceValue) -> InstanceValue:
        """`new` in the instances that run, `old` in the others."""
        return new if self.mask is None else np.where(self.mask, new, old)


@dataclass(frozen=True)
class FunctionBlock:
    """A block that was read: `instances` of it run."""

    name: str
    variables: Mapping[str, Variable]
    """By their names in capitals."""
    body: str
    """The text of its statements."""
    run: _Run = field(repr=False)

    def instances(self) -> Instances:
        """New instances, each with the initial values."""
        return Instances(self)

    def of(self, section: str) -> list[Variable]:
        """The variables of one section, in order."""
        return [variable for variable in self.variables.values() if variable.section == section]


def read_block(text: str, where: str = "structured text") -> FunctionBlock:
    """The one function block that `text` holds; a UserError with its line where it is none of this subset."""
    reader = _Reader(text, where)
    try:
        return reader.block()
    except RecursionError:
        raise UserError(f"{where}: an expression is nested too deeply to be read.") from None


class _Token(NamedTuple):
    kind: str
    text: str
    """In capitals, for the language does not tell them from small letters."""
    line: int
    at: int
    """Where in the text it begins."""
    spelled: str


def _tokens(text: str, where: str) -> list[_Token]:
    found: list[_Token] = []
    position, line = 0, 1
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise UserError(f"{where}, line {line}: cannot read {text[position : position + 20]!r}.")
        kind, word = str(match.lastgroup), match.group()
        if kind != "space":
            found.append(_Token(kind, word.upper() if kind == "word" else word, line, position, word))
        position, line = match.end(), line + word.count("\n")
    return [*found, _Token("end", "the end", line, position, "")]


class _Reader:
    """A parser by recursive descent that makes closures: one function a rule of the grammar above."""

    def __init__(self, text: str, where: str):
        self.where, self.tokens, self.at = where, _tokens(text, where), 0
        self.text = text
        self.variables: dict[str, Variable] = {}
        self.counting: list[str] = []

    # ------------------------------------------------------------------ tokens

    def wrong(self, sentence: str) -> UserError:
        return UserError(f"{self.where}, line {self.tokens[self.at].line}: {sentence}")

    def found(self, *texts: str) -> str | None:
        """The next token, taken where it is one of these."""
        token = self.tokens[self.at]
        if token.text not in texts or token.kind == "end":
            return None
        self.at += 1
        return token.text

    def expect(self, *texts: str) -> str:
        text = self.found(*texts)
        if text is None:
            raise self.wrong(f"found {self.tokens[self.at].text!r}, expected {' or '.join(map(repr, texts))}.")
        return text

    def word(self) -> str:
        token = self.tokens[self.at]
        if token.kind != "word" or token.text in KEYWORDS:
            raise self.wrong(f"found {token.text!r}, expected a name.")
        self.at += 1
        return token.text

    def whole(self) -> int:
        sign = -1 if self.found("-") else 1
        token = self.tokens[self.at]
        if token.kind != "whole":
            raise self.wrong(f"found {token.text!r}, expected a whole number.")
        self.at += 1
        return sign * int(token.text)

    # ------------------------------------------------------------------ declarations

    def block(self) -> FunctionBlock:
        self.expect("FUNCTION_BLOCK")
        name = self.tokens[self.at].spelled
        self.word()
        while section := self.found(*SECTIONS):
            constant = bool(self.found("CONSTANT"))
            while not self.found("END_VAR"):
                self.declaration(section, constant)
        begin = self.tokens[self.at].at
        run = self.statements("END_FUNCTION_BLOCK")
        body = self.text[begin : self.tokens[self.at].at]
        self.expect("END_FUNCTION_BLOCK")
        if self.tokens[self.at].kind != "end":
            raise self.wrong(f"found {self.tokens[self.at].text!r} after the block, expected nothing.")
        return FunctionBlock(name, self.variables, body, run)

    def declaration(self, section: str, constant: bool) -> None:
        spelled, name = self.tokens[self.at].spelled, self.word()
        if name in self.variables or name in STANDARD_FUNCTIONS or name in PLC_TYPES:
            raise self.wrong(f"the name {name} is taken.")
        self.expect(":")
        first, size = 0, None
        if self.found("ARRAY"):
            self.expect("[")
            first = self.whole()
            self.expect("..")
            size = self.whole() - first + 1
            self.expect("]")
            self.expect("OF")
        kind = self.expect(*PLC_TYPES)
        initial = [0.0] * (size or 1)
        if self.found(":="):
            initial = [self.constant(kind)] if size is None else self.array(kind)
        elif constant:
            raise self.wrong(f"the constant {name} has no value.")
        if len(initial) != (size or 1):
            raise self.wrong(f"{name}: found {len(initial)} values, expected {size}.")
        self.expect(";")
        self.variables[name] = Variable(spelled, kind, section, constant, first, size, tuple(initial))

    def array(self, kind: str) -> list[float]:
        self.expect("[")
        values: list[float] = []
        while True:
            if self.tokens[self.at + 1].text == "(":
                times = self.whole()
                self.expect("(")
                values += times * [self.constant(kind)]
                self.expect(")")
            else:
                values.append(self.constant(kind))
            if self.expect(",", "]") == "]":
                return values

    def constant(self, kind: str) -> float:
        if kind == "BOOL":
            return float(self.expect("TRUE", "FALSE") == "TRUE")
        if kind == "DINT":
            return _checked(self.whole())
        sign = -1.0 if self.found("-") else 1.0
        token = self.tokens[self.at]
        if token.kind != "real":
            raise self.wrong(f"found {token.text!r}, expected a number with a decimal point.")
        self.at += 1
        return sign * float(token.text)

    # ------------------------------------------------------------------ statements

    def statements(self, *ends: str) -> _Run:
        """All statements up to one of the words `ends`, which is left."""
        runs: list[_Run] = []
        while self.tokens[self.at].text not in ends:
            if self.found("IF"):
                runs.append(self.branches())
            elif self.found("FOR"):
                runs.append(self.loop())
            else:
                runs.append(self.assignment())
            self.expect(";")

        def run(instances: Instances) -> None:
            for statement in runs:
                statement(instances)

        return run

    def place(self) -> tuple[Variable, Typed | None]:
        """A variable, and the index of its element."""
        name = self.word()
        if name not in self.variables:
            raise self.wrong(f"found no variable {name}.")
        variable, index = self.variables[name], None
        if self.found("["):
            index = self.of_kind("DINT")
            self.expect("]")
        if (index is None) != (variable.size is None):
            raise self.wrong(f"{variable.name} is {'no' if variable.size is None else 'an'} array.")
        return variable, index

    def assignment(self) -> _Run:
        variable, index = self.place()
        name = variable.name.upper()
        if variable.constant or variable.section == "VAR_INPUT" or name in self.counting:
            raise self.wrong(f"{variable.name} is not to be written here.")
        self.expect(":=")
        value = self.of_kind(variable.kind).value
        fitting = _fitting if variable.kind == "DINT" else _as_it_is
        first, size = variable.first, variable.size or 0

        def assign(instances: Instances) -> None:
            new = fitting(value(instances))
            instances.values[name] = instances.masked(new, instances.values[name])

        def assign_element(instances: Instances) -> None:
            assert index is not None
            at, held = index.value(instances) - first, instances.values[name]
            new = fitting(value(instances))
            if isinstance(at, int) or np.ndim(at) == 0:
                held[_inside(int(at), size, variable.name)] = instances.masked(new, held[at])
                return
            for element in range(size):
                held[element] = np.where(at == element, instances.masked(new, held[element]), held[element])

        return assign if index is None else assign_element

    def branches(self) -> _Run:
        """IF … ELSIF … ELSE … END_IF."""
        cases: list[tuple[Evaluate, _Run]] = []
        word = "IF"
        while word in ("IF", "ELSIF"):
            condition = self.of_kind("BOOL").value
            self.expect("THEN")
            cases.append((condition, self.statements("ELSIF", "ELSE", "END_IF")))
            word = self.expect("ELSIF", "ELSE", "END_IF")
        if word == "ELSE":
            cases.append((lambda _: np.True_, self.statements("END_IF")))
            self.expect("END_IF")

        def run(instances: Instances) -> None:
            outer = left = instances.mask
            for condition, body in cases:
                holds = condition(instances)
                if np.ndim(holds):
                    instances.mask = chosen = np.asarray(holds if left is None else holds & left)
                    if chosen.any():
                        body(instances)
                    instances.mask = left = np.asarray(~holds if left is None else ~holds & left)
                    if not left.any():
                        break
                elif holds:
                    body(instances)
                    break
            instances.mask = outer

        return run

    def loop(self) -> _Run:
        """FOR name := first TO last BY step DO … END_FOR: the bounds are the same in all instances."""
        variable, index = self.place()
        if variable.kind != "DINT" or index is not None or variable.constant or variable.section == "VAR_INPUT":
            raise self.wrong(f"{variable.name} cannot count a loop.")
        self.expect(":=")
        first = self.of_kind("DINT").value
        self.expect("TO")
        last = self.of_kind("DINT").value
        step = self.whole() if self.found("BY") else 1
        if not step:
            raise self.wrong("found a loop with a step of 0.")
        self.expect("DO")
        name = variable.name.upper()
        self.counting.append(name)
        body = self.statements("END_FOR")
        self.counting.pop()
        self.expect("END_FOR")

        def run(instances: Instances) -> None:
            values = instances.values
            for count in range(int(first(instances)), int(last(instances)) + (1 if step > 0 else -1), step):
                values[name] = count
                body(instances)

        return run

    # ------------------------------------------------------------------ expressions

    def of_kind(self, kind: str) -> Typed:
        """An expression of one kind."""
        value = _become(kind, self.expression())
        if kind != value.kind:
            raise self.wrong(f"found {value.kind}, expected {kind}.")
        return value

    def expression(self) -> Typed:
        return self._logical("OR", np.logical_or, lambda: self._logical("AND", np.logical_and, self._comparison))

    def _logical(self, word: str, join: Callable[..., InstanceValue], part: Callable[[], Typed]) -> Typed:
        value = part()
        while self.found(word):
            other = part()
            if (value.kind, other.kind) != ("BOOL", "BOOL"):
                raise self.wrong(f"{word} joins {value.kind} and {other.kind}, expected BOOL.")
            value = _joined("BOOL", join, value, other)
        return value

    def _comparison(self) -> Typed:
        value = self._sum()
        if sign := self.found(*COMPARISONS):
            return _joined("BOOL", COMPARISONS[sign], *self._alike(value, self._sum()))
        return value

    def _sum(self) -> Typed:
        value = self._product()
        while sign := self.found("+", "-"):
            value = self._arithmetic(sign, value, self._product())
        return value

    def _product(self) -> Typed:
        value = self._factor()
        while sign := self.found("*", "/", "MOD"):
            value = self._arithmetic(sign, value, self._factor())
        return value

    def _arithmetic(self, sign: str, value: Typed, other: Typed) -> Typed:
        value, other = self._alike(value, other)
        operations = OPERATIONS.get(value.kind, {})
        if sign not in operations:
            raise self.wrong(f"found {sign} between {value.kind} and {other.kind}.")
        return _joined(value.kind, operations[sign], value, other)

    def _alike(self, *values: Typed) -> list[Typed]:
        """Values of one kind, where literals become that kind."""
        kinds = sorted({value.kind for value in values}, key=lambda kind: kind in LITERALS)
        if len(kinds) > 2 or (len(kinds) == 2 and kinds[0] not in LITERALS.get(kinds[1], ())):
            raise self.wrong(f"found {' with '.join(kinds)}; a PLC does not mix them.")
        return [_become(kinds[0], value) for value in values]

    def _factor(self) -> Typed:
        token = self.tokens[self.at]
        if self.found("("):
            value = self.expression()
            self.expect(")")
            return value
        if self.found("-"):
            value = self._factor()
            if value.kind == "BOOL":
                raise self.wrong("found - before BOOL.")
            return Typed(value.kind, lambda instances: -value.value(instances))
        if self.found("NOT"):
            value = self._factor()
            if value.kind != "BOOL":
                raise self.wrong(f"found NOT before {value.kind}.")
            return Typed("BOOL", lambda instances: np.logical_not(value.value(instances)))
        if token.kind in ("real", "whole"):
            self.at += 1
            number = float(token.text) if token.kind == "real" else _checked(int(token.text))
            return Typed("a number" if token.kind == "real" else "a whole number", lambda _: number)
        if word := self.found("TRUE", "FALSE"):
            truth = np.bool_(word == "TRUE")
            return Typed("BOOL", lambda _: truth)
        if token.text in STANDARD_FUNCTIONS and self.tokens[self.at + 1].text == "(":
            return self.call()
        return self.element()

    def call(self) -> Typed:
        """A standard function."""
        name = self.word()
        kinds, result, function = STANDARD_FUNCTIONS[name]
        self.expect("(")
        values = [self.expression()]
        while self.expect(",", ")") == ",":
            values.append(self.expression())
        if len(values) != len(kinds):
            raise self.wrong(f"{name}: found {len(values)} arguments, expected {len(kinds)}.")
        given = [_become(kind, value) for kind, value in zip(kinds, values, strict=True)]
        of_any = iter(self._alike(*(value for kind, value in zip(kinds, given, strict=True) if kind == "ANY")))
        given = [next(of_any) if kind == "ANY" else value for kind, value in zip(kinds, given, strict=True)]
        for kind, value in zip(kinds, given, strict=True):
            if value.kind == "BOOL" if kind == "ANY" else value.kind != kind:
                raise self.wrong(f"{name}: found {value.kind}, expected {'a number' if kind == 'ANY' else kind}.")
        evaluate = [value.value for value in given]
        kind = given[-1].kind if result == "ANY" else result
        if len(evaluate) == 1:
            (one,) = evaluate
            return Typed(kind, lambda instances: function(one(instances)))
        return Typed(kind, lambda instances: function(*(value(instances) for value in evaluate)))

    def element(self) -> Typed:
        """A variable or an element of an array."""
        variable, index = self.place()
        name, first, size = variable.name.upper(), variable.first, variable.size or 0
        if index is None:
            return Typed(variable.kind, lambda instances: instances.values[name])
        where = index.value

        def value(instances: Instances) -> InstanceValue:
            at, held = where(instances) - first, instances.values[name]
            if isinstance(at, int) or np.ndim(at) == 0:
                return held[_inside(int(at), size, variable.name)]
            if instances.mask is not None:
                at = np.where(instances.mask, at, 0)
            _inside(int(at.min()), size, variable.name)
            _inside(int(at.max()), size, variable.name)
            if isinstance(held, np.ndarray):
                return held[at]
            return np.stack(np.broadcast_arrays(*held, at)[:-1])[at, np.arange(len(at))]

        return Typed(variable.kind, value)


def _joined(kind: str, join: Callable[..., InstanceValue], value: Typed, other: Typed) -> Typed:
    one, two = value.value, other.value
    return Typed(kind, lambda instances: join(one(instances), two(instances)))


def _inside(at: int, size: int, name: str) -> int:
    if not 0 <= at < size:
        raise UserError(f"{name}: found index {at} counted from its first element, expected 0 to {size - 1}.")
    return at


def _checked(value: int) -> int:
    if not -MOST_DINT - 1 <= value <= MOST_DINT:
        raise UserError(f"found {value}, which no DINT holds.")
    return value


def _fitting(value: InstanceValue) -> InstanceValue:
    """A whole number that a DINT holds."""
    for end in (value,) if np.ndim(value) == 0 else (value.min(), value.max()):
        _checked(int(end))
    return value


def _as_it_is(value: InstanceValue) -> InstanceValue:
    return value


def _become(kind: str, value: Typed) -> Typed:
    """A literal as a value of the kind that it stands beside; anything else as it is."""
    if value.kind not in LITERALS or kind in LITERALS:
        return value
    if kind not in LITERALS[value.kind]:
        return value
    literal, number = value.value, PLC_TYPES[kind] if kind in _NUMBERS else _as_it_is
    return Typed(kind, lambda instances: number(literal(instances)))


def _quotient(value: InstanceValue, other: InstanceValue) -> InstanceValue:
    """Whole numbers divide towards 0; the remainder has the sign of `value`."""
    if np.any(np.equal(other, 0)):
        raise UserError("found a whole number divided by 0.")
    quotient = np.abs(value) // np.abs(other) * np.sign(value) * np.sign(other)
    return int(quotient) if np.ndim(quotient) == 0 else quotient


COMPARISONS: dict[str, Callable[..., InstanceValue]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "<>": np.not_equal,
}
_ARITHMETIC: dict[str, Callable[..., InstanceValue]] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_WHOLE: dict[str, Callable[..., InstanceValue]] = {
    "+": lambda value, other: value + other,
    "-": lambda value, other: value - other,
    "*": lambda value, other: value * other,
    "/": _quotient,
    "MOD": lambda value, other: value - _quotient(value, other) * other,
}


OPERATIONS = {
    "REAL": _ARITHMETIC,
    "LREAL": _ARITHMETIC,
    "a number": _ARITHMETIC,
    "DINT": _WHOLE,
    "a whole number": _WHOLE,
}


def _nearest_whole(value: InstanceValue) -> InstanceValue:
    """The nearest whole number, halves to the even one; what no DINT holds becomes one that is found out."""
    nearest = np.where(np.abs(value) <= MOST_DINT, np.rint(value), 2.0 * MOST_DINT).astype(np.int64)
    return int(nearest) if nearest.ndim == 0 else nearest


STANDARD_FUNCTIONS: dict[str, tuple[tuple[str, ...], str, Callable[..., InstanceValue]]] = {
    "ABS": (("ANY",), "ANY", np.abs),
    "SQRT": (("ANY",), "ANY", np.sqrt),
    "EXP": (("ANY",), "ANY", np.exp),
    "LN": (("ANY",), "ANY", np.log),
    "MIN": (("ANY", "ANY"), "ANY", np.minimum),
    "MAX": (("ANY", "ANY"), "ANY", np.maximum),
    "LIMIT": (("ANY", "ANY", "ANY"), "ANY", lambda low, value, high: np.minimum(np.maximum(value, low), high)),
    "SEL": (("BOOL", "ANY", "ANY"), "ANY", lambda chosen, no, yes: np.where(chosen, yes, no)),
    "DINT_TO_REAL": (("DINT",), "REAL", np.float32),
    "DINT_TO_LREAL": (("DINT",), "LREAL", np.float64),
    "REAL_TO_DINT": (("REAL",), "DINT", _nearest_whole),
    "LREAL_TO_DINT": (("LREAL",), "DINT", _nearest_whole),
    "REAL_TO_LREAL": (("REAL",), "LREAL", np.float64),
    "LREAL_TO_REAL": (("LREAL",), "REAL", np.float32),
}
"""Name: (kinds of its arguments, kind of its value, itself); ANY are numbers of one kind."""
