"""Makes an instance of a command's class from its words; a mistake among them is one sentence."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, TypeVar, get_args, get_type_hints

import tyro

from fittedq.errors import UserError, nearest

# The text of such an option says what happens without it; "None" is no word of the command line.
MaybeInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
MaybeFloat = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
MaybeWord = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
MaybeTime = Annotated[str | None, tyro.conf.arg(metavar="TIME", help_behavior_hint="")]
StopCondition = Annotated[str | None, tyro.conf.arg(metavar="CONDITION", help_behavior_hint="")]
MaybePath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]

Trackers = Annotated[str | None, tyro.conf.arg(metavar="NAME,…", help_behavior_hint="")]

Parsed = TypeVar("Parsed")

_, APPENDS = get_args(tyro.conf.UseAppendAction[str])
"""The mark of an option that may be given often."""
_, POSITIONAL = get_args(tyro.conf.Positional[str])
"""The mark of an argument without a name."""
EXPECTED = {"INT": "a whole number", "[INT [INT ...]]": "whole numbers", "FLOAT": "a number"}
"""What an option's metavar asks for, in words."""


WITH_MINUS = ("--reward", "--terminated", "--truncated", "--fallback")
"""Options whose value may begin with a minus sign."""


class _Refused(Exception):
    """What the parser has against the arguments: an event of tyro's."""

    def __init__(self, event: object):
        super().__init__()
        self.event = event


def parse(command: type[Parsed], prog: str, arguments: list[str]) -> Parsed:
    """An instance of `command`, or a UserError."""
    arguments = list(_with_formulas(arguments))
    _refuse_repeated(command, arguments)
    plain = io.StringIO()  # to which tyro writes help without boxes
    try:
        with _refusing(), redirect_stdout(sys.stdout if sys.stdout.isatty() else plain):
            return tyro.cli(command, prog=prog, args=arguments)
    except SystemExit:
        print(plain.getvalue(), end="")
        raise
    except _Refused as refused:
        event = refused.event
    argument = getattr(event, "argument", None)
    missing = [one.arg.display_name().rpartition(".")[2] for one in getattr(event, "missing_arguments", ())]
    name = prog.removeprefix("fittedq ")
    unknown = (getattr(event, "tokens", None) or getattr(event, "unrecognized_tokens", None) or [None])[0]
    choices = getattr(event, "choices", None)
    if choices is not None and argument is not None and argument.is_positional():
        raise UserError(f"{name}: found {getattr(event, 'value', '')!r}; valid names: {', '.join(sorted(choices))}.")
    if argument is not None and argument.is_positional():
        missing = [argument.display_name().rpartition(".")[2]]
    elif argument is not None:
        raise UserError(_wrong_value(argument.display_name(), str(argument.lowered.metavar), arguments))
    offered = _help(command, prog, arguments[:1]) or _help(command, prog, [])
    subcommands = re.search(r"\{([a-z]+(?:,[a-z]+)+)\}", offered) if "subcommands" in offered else None
    if unknown is not None and unknown.startswith("-"):
        flag = unknown.partition("=")[0]
        raise UserError(f"option {flag} is unknown; {nearest(flag, re.findall(r'--[a-z][a-z-]*', offered))}")
    if subcommands is not None:
        found = "no command" if unknown is None else f"{unknown!r}"
        raise UserError(f"{name}: found {found}; {nearest(unknown or '', subcommands[1].split(','))}")
    if unknown is not None:
        raise UserError(f"{name}: found {unknown!r}, expected no further word; `{prog} --help` shows what it takes.")
    what = " and no ".join(missing) or "a part of the command"
    raise UserError(f"{name}: found no {what}; `{prog} --help` shows what it takes.")


def words_of(command: object) -> list[str]:
    """The words of which `parse` makes an equal instance: all arguments that are not at their defaults."""
    hints = get_type_hints(type(command), include_extras=True)
    positional, named = list[str](), list[str]()
    for field in fields(command):  # pyright: ignore[reportArgumentType]
        value, flag = getattr(command, field.name), f"--{field.name.replace('_', '-')}"
        if value == field.default:
            continue
        if POSITIONAL in get_args(hints[field.name]):
            positional.append(str(value))
        elif value is True:
            named.append(flag)
        elif not isinstance(value, tuple):
            named.append(f"{flag}={value}")
        elif APPENDS in get_args(hints[field.name]):
            named += [f"{flag}={one}" for one in value]
        else:
            named += [flag, *map(str, value)]
    return [*positional, *named]


def _with_formulas(arguments: list[str]) -> Iterator[str]:
    """The same words; a formula that begins with a minus sign is joined to its option, or it would count as another."""
    words = iter(arguments)
    for word in words:
        value = next(words, None) if word in WITH_MINUS else None
        if value is not None and value.startswith("-") and not value.startswith("--"):
            yield f"{word}={value}"
        else:
            yield from [word] if value is None else [word, value]


def _refuse_repeated(command: type, arguments: list[str]) -> None:
    """A UserError for an option that is given twice and takes one value: the parser would drop the first in silence."""
    flags = [word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")]
    for flag in dict.fromkeys(flag for flag in flags if flags.count(flag) > 1):
        if flag not in _repeatable(command):
            raise UserError(f"{flag} is given {flags.count(flag)} times; give it once, with all its values.")


def _repeatable(kind: object) -> set[str]:
    """The options of a command that may be given often; of a choice among commands, those of all."""
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return set().union(*map(_repeatable, get_args(kind)))
    hints = get_type_hints(kind, include_extras=True)
    own = {f"--{name.replace('_', '-')}" for name, hint in hints.items() if APPENDS in get_args(hint)}
    return own.union(*map(_repeatable, hints.values()))


def _refusing() -> AbstractContextManager[None]:
    """While this lasts tyro raises `_Refused` where it would print; a version without its hook prints."""
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        return contextlib.nullcontext()

    def refuse(event: object) -> None:
        raise _Refused(event)

    return on_parse_error(refuse)


def _wrong_value(flag: str, metavar: str, arguments: list[str]) -> str:
    """Every value that was given with `flag`, and what was expected; flags may be written with underscores."""
    found: list[str] = []
    taking = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            taking = name.replace("_", "-") == flag
            found += [value] if taking and equals else []
        elif taking:
            found.append(word)
    expected = EXPECTED.get(metavar, metavar)
    return f"{flag}: found {' '.join(map(repr, found)) or 'no value'}, expected {expected}."


def _help(command: type, prog: str, words: list[str]) -> str:
    """What `--help` prints after these words; nothing where they are wrong themselves."""
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        tyro.cli(command, prog=prog, args=[*words, "--help"])
    return text.getvalue()
