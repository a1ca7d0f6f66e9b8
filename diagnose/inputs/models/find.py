"""From the word for a model to the model: a built-in name, a file, a folder or a factory."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from diagnose.errors import InputError
from diagnose.inputs.models import checkpoints, factories, hints, networks, pretrained
from diagnose.inputs.models.catalogue import IN_TORCHVISION, NETWORKS, Network, named
from diagnose.inputs.models.loaded import Loaded
from diagnose.settings import Settings, printable
from reports.record.diagnosis import NOT_YET

FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".json")
MISSPELT = 0.85
"""Share of letters in common from which on a word is a built-in name, misspelt."""
LATER = (".pt2", ".gguf", ".onnx")
HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
"""OWNER/NAME, as models of the Hugging Face hub are called."""
WAYS = "a built-in name, a checkpoint, a folder or config.json of transformers, or `package.module:factory`"


def open_model(word: str, settings: Settings) -> Network | Loaded:
    """What a word names: a network that is built to fit its data later, or a model with its weights on the CPU.

    Random weights follow ``settings.seed``; ``architecture``, ``trust_pickle`` and ``trust_remote_code`` apply.

    Raises:
        InputError: nothing of that name, a kind that this version does not open, a model that is not whole.
    """
    network = NETWORKS.get(word)
    if network is not None:
        _refuse_architecture(settings, f"{word} is an architecture itself")
        if network.takes != "text":
            return network
        return Loaded(networks.build(network, (), 0, settings.seed), network.name, network.form, network=network)
    shown, path = printable(word), Path(word)
    if word.startswith("hf:"):
        raise InputError(f"model `{shown}`", NOT_YET, hints.HUB)
    if word.lower().endswith(LATER):
        raise InputError(f"model `{shown}`", NOT_YET, f"give {WAYS}")
    if word and os.path.isdir(word):
        return pretrained.open_folder(path, settings)
    if os.path.isfile(word):  # like isdir above it says no to names that no file can have
        if path.suffix.lower() == ".json":
            return pretrained.open_config(path, settings)
        return checkpoints.open_file(path, settings)
    if factories.FORM.fullmatch(word) and not word.partition(":")[0].endswith(".py"):
        _refuse_architecture(settings, "a factory makes its own model")
        return factories.open_factory(word, settings.seed)
    if re.fullmatch(r"[\w/]+\.py:\w+", word):
        hint = f"write it as a module: `{shown.replace('.py:', ':').replace('/', '.')}`"
        raise InputError("a file instead of a module", shown, hint)
    if _on_the_hub(word):
        raise InputError("no such model or folder here", shown, hints.HUB)
    if word.lower().endswith(FILES) or "/" in word:
        raise InputError("no such file", shown, _nearest_file(path))
    return named(word)


def _on_the_hub(word: str) -> bool:
    """Whether a word that names nothing here is OWNER/NAME, or begins as models of the hub without an owner do."""
    if word.lower().endswith(FILES) or IN_TORCHVISION.fullmatch(word):
        return False
    if HUB.fullmatch(word):
        return not Path(word).parent.exists()
    if "/" in word or difflib.get_close_matches(word, NETWORKS, n=1, cutoff=MISSPELT):
        return False
    from transformers import CONFIG_MAPPING

    begin = re.match(r"[a-z]+\d*", word.lower())
    return begin is not None and begin[0] in CONFIG_MAPPING


def _refuse_architecture(settings: Settings, what: str) -> None:
    if settings.architecture is not None:
        raise InputError(what, "--architecture", "leave it out")


def _nearest_file(path: Path) -> str:
    """The file beside whose name is nearest."""
    try:
        names = [each.name for each in path.parent.iterdir()]
    except (OSError, ValueError):
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean `{printable(path.parent / near[0])}`?" if near else "check the path"
