"""`fittedq completion bash`: a script by which a shell completes the words of fittedq, without asking it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import tyro

from fittedq.algorithms import AUTO, REGISTRY
from fittedq.algorithms.presets import presets
from fittedq.cli.arguments import POSITIONAL
from fittedq.cli.main import COMMANDS
from fittedq.runs.trackers import TRACKERS

TAKES_ALGORITHM = ("train", "tune", "sweep", "list")
"""Commands whose first word is an algorithm."""

BASH = """\
# fittedq's words for bash, and for zsh by its bashcompinit.
_fittedq() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "$before" in
{values}
        esac
        if [ -z "$words" ]; then
            case "$current" in
            -*) case "${{COMP_WORDS[1]}}" in
{flags}
                esac ;;
            *) if [ "$COMP_CWORD" -eq 2 ]; then
                case "${{COMP_WORDS[1]}}" in
{firsts}
                esac
            fi ;;
            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _fittedq fittedq
"""


@dataclass(frozen=True)
class Completion:
    """Print a script by which a shell completes commands, options, algorithms and presets; file names where a word is
    none of these. Keep it where the shell looks:

    bash: fittedq completion bash > ~/.local/share/bash-completion/completions/fittedq;
    zsh: fittedq completion zsh > ~/.fittedq.zsh, and `source ~/.fittedq.zsh` in ~/.zshrc;
    fish: fittedq completion fish > ~/.config/fish/completions/fittedq.fish."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]
    """The shell."""

    def run(self) -> int:
        print(_fish() if self.shell == "fish" else _bash(zsh=self.shell == "zsh"), end="")
        return 0


def values() -> dict[str, list[str]]:
    """option → the words that may follow it."""
    return {"--preset": [*presets()], "--track": [*TRACKERS]} | _choices()


def firsts() -> dict[str, list[str]]:
    """command → what its first word may be."""
    algorithms = {name: [AUTO, *REGISTRY] for name in TAKES_ALGORITHM}
    return {**algorithms, "completion": ["bash", "zsh", "fish"], "data": [*_subcommands()]}


def options() -> dict[str, list[str]]:
    """command → its options."""
    return {name: sorted({*dict(_flags(command.load())), "--help"}) for name, command in COMMANDS.items()}


def _subcommands() -> Iterator[str]:
    """The words after `fittedq data`."""
    hint = get_type_hints(COMMANDS["data"].load(), include_extras=True)["command"]
    for kind, *marks in map(get_args, get_args(get_args(hint)[0])):
        yield next((mark.name for mark in marks if getattr(mark, "name", None)), kind.__name__.lower())


def _kinds(cls: type) -> list[type]:
    """The commands that a command is one of."""
    hints = get_type_hints(cls)
    return [kind for hint in hints.values() for kind in get_args(hint) if isinstance(kind, type) and is_dataclass(kind)]


def _flags(cls: type) -> Iterator[tuple[str, object]]:
    """The options of a command, or of those that it is one of, with their annotations."""
    kinds = _kinds(cls)
    hints = get_type_hints(cls, include_extras=True)
    for field in [] if kinds else fields(cls):
        if POSITIONAL not in get_args(hints[field.name]):
            yield f"--{field.name.replace('_', '-')}", hints[field.name]
    for kind in kinds:
        yield from _flags(kind)


def _choices() -> dict[str, list[str]]:
    """Options that take one of some words, as their annotations say."""
    found: dict[str, list[str]] = {}
    for command in COMMANDS.values():
        for flag, hint in _flags(command.load()):
            words = _literals(hint)
            if words:
                found[flag] = list(dict.fromkeys([*found.get(flag, []), *words]))
    return found


def _literals(hint: object) -> list[str]:
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for part in get_args(hint) for word in _literals(part)]


def _cases(words: Mapping[str, list[str]], indent: int) -> str:
    return "\n".join(f'{" " * indent}{name}) words="{" ".join(some)}" ;;' for name, some in words.items())


def _bash(*, zsh: bool) -> str:
    head = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    cases = {"values": _cases(values(), 8), "flags": _cases(options(), 16), "firsts": _cases(firsts(), 16)}
    return head + BASH.format(commands=" ".join([*COMMANDS, "--help", "--version"]), **cases)


def _fish() -> str:
    said = {name: command.about.replace("'", "\\'") for name, command in COMMANDS.items()}
    lines = [f"complete -c fittedq -n __fish_use_subcommand -a {name} -d '{about}'" for name, about in said.items()]
    follow = values()
    for name, flags in options().items():
        seen = f"complete -c fittedq -n '__fish_seen_subcommand_from {name}'"
        for flag in flags:
            words = f" -x -a '{' '.join(follow[flag])}'" if flag in follow else ""
            lines.append(f"{seen} -l {flag.removeprefix('--')}{words}")
        if name in firsts():
            lines.append(f"{seen} -a '{' '.join(firsts()[name])}'")
    return "\n".join(["# fittedq's words for fish.", *lines]) + "\n"
