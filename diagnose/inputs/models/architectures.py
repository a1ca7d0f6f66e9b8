"""Classes of transformers by name: those that it has, and the code that a folder brings along where it is trusted."""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagnose.errors import InputError
from diagnose.inputs.models.catalogue import NETWORKS
from diagnose.inputs.models.reading import first_line
from diagnose.inputs.random_state import seeded
from diagnose.settings import Settings, printable
from estimators.task.model_kinds import KINDS, kind

CONFIG = "config.json"
TRUST = "`--trust-remote-code` runs it, if you trust its origin"
TOKENS = "input_ids"
OTHER_PARTS = ("vision_config", "audio_config", "audio_encoder", "vision_encoder", "text_encoder", "decoder_config")
"""Parts of a configuration that speak of inputs besides text."""
HEADS = "…" + ", …".join(KINDS)


def find_class(name: str) -> Any:
    """A transformers class by its name, None where there is none.

    Raises:
        InputError: a class without a head that is measured.
    """
    import transformers

    try:
        with silent():
            found = getattr(transformers, name, None) if name.isidentifier() else None
    except (ImportError, RuntimeError) as error:  # its modules are imported when they are first asked for
        where = f"{name}: {first_line(error)}"
        raise InputError("the class cannot be imported", where, "install what it needs") from error
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        return None
    if kind(found) is None:
        raise InputError(
            f"{name} has no head that is measured", "architecture", f"these are: {HEADS}; {_with_head(name)}"
        )
    return found


def unknown_architecture(name: str, where: str) -> InputError:
    """The error for a name that is neither built in nor in transformers."""
    import transformers

    valid = [
        *NETWORKS,
        *(each for each in dir(transformers) if each.endswith(tuple(KINDS)) and not each.startswith("Auto")),
    ]
    near = difflib.get_close_matches(name, valid, n=1)
    either = f"a built-in name ({', '.join(NETWORKS)}) or a class of transformers"
    return InputError(
        f"unknown architecture `{printable(name)}`", where, f"did you mean `{near[0]}`?" if near else f"use {either}"
    )


def named_class(config: Mapping[str, Any]) -> str | None:
    """The class that a configuration names first."""
    listed = config.get("architectures")
    return listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], str) else None


def class_of(config: Mapping[str, Any], folder: Path, settings: Settings) -> Any:
    """The class that a configuration names, else the one of --architecture.

    Raises:
        InputError: none or both of them, no such class, one without a head that is measured, code without trust.
    """
    named, asked = named_class(config), settings.architecture
    if named is None and asked is None:
        if "model_type" not in config:
            raise InputError("no configuration of a model", CONFIG, "it has `architectures` and `model_type`")
        hint = "name a class of transformers with `--architecture`"
        raise InputError("the configuration does not name its class", CONFIG, hint)
    if named is not None and named.endswith(tuple(KINDS)):
        if asked is not None:
            raise InputError(f"{CONFIG} names its class, {printable(named)}", "--architecture", "leave it out")
        name, where = named, CONFIG
    elif asked is not None:
        name, where = str(asked), "--architecture"
    else:
        name, where = str(named), CONFIG
    if isinstance(config.get("auto_map"), dict):
        own = _class_from_folder(config["auto_map"], name, folder, settings)
        if own is not None:
            return own
    cls = find_class(name)
    if cls is None:
        raise unknown_architecture(name, where)
    return cls


def _class_from_folder(auto_map: Mapping[str, Any], name: str, folder: Path, settings: Settings) -> Any:
    """The class of the code that a folder brings along, None where transformers has it itself."""
    reference = next((each for each in auto_map.values() if str(each).rpartition(".")[2] == name), None)
    if reference is None or find_class(name) is not None:
        return None
    if "--" in str(reference):
        what = f"{printable(name)} is Python code of {printable(str(reference).partition('--')[0])}, which is not here"
        raise InputError(what, CONFIG, "save the model with its code beside it")
    if not settings.trust_remote_code:
        raise InputError(f"{printable(name)} is Python code in the folder", CONFIG, TRUST)
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    try:
        with silent(), seeded(0):
            cls = get_class_from_dynamic_module(str(reference), str(folder), local_files_only=True)
    except Exception as error:  # whatever the code of the folder does
        where = f"{printable(reference)}: {type(error).__name__}: {first_line(error)}"
        raise InputError("the code of the folder cannot be loaded", where) from error
    if kind(cls) is None or getattr(cls, "config_class", None) is None:
        raise InputError(f"{printable(name)} has no head that is measured", CONFIG, f"these are: {HEADS}")
    return cls


def refuse_other_inputs(cls: Any, config: Any, where: str) -> None:
    """Refuse a class whose samples no data of the command can be: images with text, sound, tensors of its own.

    Raises:
        InputError: naming what it takes.
    """
    head = kind(cls)
    if head == "image":
        return
    parts = sorted(set(getattr(config, "sub_configs", None) or ()) & set(OTHER_PARTS))
    main = getattr(cls, "main_input_name", TOKENS)
    takes = f"`{main}`, not tokens of text" if main != TOKENS else f"more than text (`{parts[0]}`)" if parts else None
    if takes is None and head == "seq2seq" and not getattr(config, "is_encoder_decoder", False):
        takes = "prompt and answer in one sequence, not apart as its name says"
    if takes is None or (head != "seq2seq" and main == TOKENS):
        return
    hint = (
        "give a model of text alone or an image classifier; in Python `diagnose.run(model, samples)` takes a mapping "
        "of all tensors that it needs, with `labels`"
    )
    raise InputError(f"{cls.__name__} takes {takes}", where, hint)


def _with_head(name: str) -> str:
    """A sibling with a head of a class that has none."""
    import transformers

    stem = re.sub(r"(Model|For[A-Z]\w*|PreTrainedModel)$", "", name)
    have = [stem + ending for ending in KINDS if hasattr(transformers, stem + ending)]
    return f"name one with `--architecture`, such as {have[0]}" if have else "it cannot be measured"


@contextmanager
def silent() -> Iterator[None]:
    """No warnings and progress bars of transformers inside; as before outside."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.CRITICAL)
    theirs.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()  # type: ignore[no-untyped-call]
