"""Prompts of instruction rows: the template of Stanford Alpaca, with system text and earlier turns where there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnose.errors import InputError
from diagnose.inputs.data import values

NEEDS = ("instruction", "output")
OPTIONAL = ("input", "system", "history")
PREAMBLE = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request."
ALONE = f"{PREAMBLE}. {REQUEST}"
PAIRED = f"{PREAMBLE}, paired with an input that provides further context. {REQUEST}"


def prompt(row: Mapping[str, Any]) -> str:
    """The row up to where its answer starts: preamble or system text, earlier turns, instruction and input.

    Earlier turns have the form of the last one, each with its answer; they carry no label.
    """
    context = row.get("input") or ""
    system = row.get("system") or ""
    opening = system if system.strip() else (PAIRED if context else ALONE)
    turns = [_turn(asked) + answer for asked, answer in row.get("history") or ()]
    return "\n\n".join([opening, *turns, _turn(row["instruction"], context)])


def _turn(instruction: str, context: str = "") -> str:
    given = f"### Input:\n{context}\n\n" if context else ""
    return f"### Instruction:\n{instruction}\n\n{given}### Response:\n"


def check(row: Mapping[str, Any], place: str) -> None:
    """Hold what a row may have besides instruction and output against its type.

    Raises:
        InputError: an input or a system text that is no text, a history that is no list of pairs of texts.
    """
    for key in ("input", "system"):
        values.check_text(row.get(key), key, place, optional=True)
    history = row.get("history")
    if history is None or history == "":
        return
    form = "it is a list of [instruction, answer] pairs, the earliest first"
    if not isinstance(history, list):
        raise InputError(f'"history" is {values.named(history)}, not a list of turns', place, form)
    for turn in history:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise InputError('"history" holds a turn that is no pair of texts', place, form)
        for part in turn:
            values.check_text(part, "history", place)
