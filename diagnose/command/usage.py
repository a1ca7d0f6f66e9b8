"""What was typed: words to numbers, and the usage errors of typer in the form of all other errors."""

from __future__ import annotations

import difflib
from dataclasses import fields
from typing import Any

import typer
from typer.core import TyperCommand

from diagnose.errors import InputError
from diagnose.settings import Settings, flag
from reports.record.diagnosis import NOT_YET

LATER_COMMANDS = ("compare", "datasets", "calibrate")
LATER_OPTIONS = (
    "--parameters",
    "--target",
    "--stop-when",
)
USAGE = {
    "diagnose": "`diagnose MODEL --data DATA`, such as `diagnose logreg --data breast-cancer`",
    "diagnose report": "`diagnose report DIR`",
    "diagnose models": "`diagnose models`, or `diagnose models NAME --save FILE`",
}
COMMANDS = tuple(name.split()[1] for name in USAGE if " " in name)
MISTYPED = 0.8
"""How alike a word and a command must be; `model.pt` is a file, not a mistyped `models`."""
HELP = {item.name: item.metadata["help"] for item in fields(Settings)}


class Command(TyperCommand):
    """A command whose usage errors look like all others."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        words = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except typer.TyperException as error:
            raise usage_error(error, words, str(info_name)) from None


def separated(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def whole(word: str | None, name: str) -> Any:
    """A whole number; None stays None."""
    if word is None:
        return None
    digits = word.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise InputError(f"`{word}` is not a whole number", flag(name), HELP[name])
    return int(word)


def number(word: str, name: str) -> float:
    """A number, as Python reads it."""
    try:
        return float(word)
    except ValueError:
        raise InputError(f"`{word}` is not a number", flag(name), HELP[name]) from None


def usage_error(error: Any, words: list[str], command: str) -> InputError:
    """A usage error of typer in our words; it tells its kind only by its attributes."""
    option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    listed = f"`{command} --help` lists the options"
    if option is not None:
        name = option.partition("=")[0]
        if name in LATER_OPTIONS:
            return InputError(name, NOT_YET)
        if not hasattr(error, "possibilities"):  # a known option used in a wrong way
            return InputError(_sentence(error), "", listed)
        return InputError(
            "unknown option", name, f"did you mean `{error.possibilities[0]}`?" if error.possibilities else listed
        )
    typed = words[:1] if command == "diagnose" else []
    near = next((close for word in typed for close in difflib.get_close_matches(word, COMMANDS, 1, MISTYPED)), None)
    if near:
        return InputError("unknown command", words[0], f"did you mean `diagnose {near}`?")
    if parameter is not None:
        return InputError(f"{parameter.metavar or parameter.name} is missing", "", USAGE[command])
    return InputError(_sentence(error), "", USAGE[command])


def _sentence(error: Any) -> str:
    text = str(error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]
