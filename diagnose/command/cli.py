"""The command line: words to Settings, errors to exit codes; what is measured is decided elsewhere.

Importing it loads no torch, so that ``diagnose --help`` answers at once. Parsing only records a job; the job
runs afterwards, outside of typer, whose main would swallow an interrupt.
"""

from __future__ import annotations

import errno
import gc
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Annotated, Any

import typer

from diagnose import __version__
from diagnose.command.usage import HELP, LATER_COMMANDS, USAGE, Command, number, separated, whole
from diagnose.errors import BUG, DISK_FULL, FINISHED, INTERRUPTED, UNUSABLE, InputError, out_of_memory
from diagnose.settings import OPTIMIZERS, Settings, check, command_line, default_directory, flag, printable
from reports.record.diagnosis import NOT_YET, RESULT

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}
NAMES: dict[str, Any] = {"help_option_names": ["--help", "-h"]}


@dataclass(frozen=True)
class Job:
    """What the words asked for: a call that returns the exit code, the folder that it writes, and whether the
    same words go on with it after an interruption.
    """

    folder: str
    call: Callable[[], int]
    resumes: bool = False


def _option(name: str, metavar: str | None = None) -> Any:
    return typer.Option(flag(name), help=HELP[name], metavar=metavar)


def _version(asked: bool) -> None:
    if asked:
        print(f"diagnose {__version__}")
        raise typer.Exit(FINISHED)


diagnose = typer.Typer(**PLAIN)
report = typer.Typer(**PLAIN)
models = typer.Typer(**PLAIN)
COMMANDS = {"report": report, "models": models}
MODEL = (
    "a built-in name (`diagnose models` lists them); a checkpoint: what diagnose.save wrote, or a state dict (.pt, "
    ".safetensors) with --architecture; a folder or config.json of transformers; package.module:factory"
)
DATA = (
    "a data set's name, such as breast-cancer or alpaca, or a file: LIBSVM text, .npz, .txt, .json, .jsonl "
    "(instruction and output, text, or text and label)"
)


@diagnose.command(
    cls=Command,
    context_settings=NAMES,
    epilog="`diagnose models` lists the built-in models and writes one to a file. "
    "`diagnose report DIR` writes DIR/report.html again from what DIR holds.",
)
def diagnose_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL)],
    data: Annotated[str, typer.Option("--data", metavar="DATA", help=DATA)],
    loss: Annotated[str | None, _option("loss", "cross-entropy|logistic|squared")] = None,
    samples: Annotated[str | None, _option("samples", "N")] = None,
    probes: Annotated[str | None, _option("probes", "N")] = None,
    batch_size: Annotated[str | None, _option("batch_size", "N")] = None,
    batch_sizes: Annotated[str | None, _option("batch_sizes", "LIST")] = None,
    steps: Annotated[str | None, _option("steps", "N")] = None,
    seeds: Annotated[str, _option("seeds", "auto|K")] = str(Settings.seeds),
    skip: Annotated[str | None, _option("skip", "PARTS")] = None,
    seed: Annotated[str, _option("seed", "N")] = str(Settings.seed),
    optimizers: Annotated[str, _option("optimizers", "NAMES")] = ",".join(OPTIMIZERS),
    learning_rates: Annotated[str | None, _option("learning_rates", "RATES")] = None,
    schedule: Annotated[str, _option("schedule", "constant|inverse-sqrt")] = Settings.schedule,
    box: Annotated[str | None, _option("box", "R")] = None,
    device: Annotated[str | None, _option("device", "NAME")] = None,
    dtype: Annotated[str | None, _option("dtype", "float32|float64")] = None,
    max_length: Annotated[str | None, _option("max_length", "N")] = None,
    features: Annotated[str | None, _option("features", "N")] = None,
    tokenizer: Annotated[str | None, _option("tokenizer", "DIR")] = None,
    architecture: Annotated[str | None, _option("architecture", "NAME")] = None,
    trust_pickle: Annotated[bool, _option("trust_pickle")] = False,
    trust_remote_code: Annotated[bool, _option("trust_remote_code")] = False,
    gap: Annotated[str, _option("gap", "auto|G")] = str(Settings.gap),
    memory: Annotated[str | None, _option("memory", "SIZE")] = None,
    budget: Annotated[str | None, _option("budget", "TIME")] = None,
    rotate: Annotated[bool, _option("rotate")] = False,
    no_training: Annotated[bool, _option("training")] = False,
    plan: Annotated[bool, _option("plan")] = False,
    quiet: Annotated[bool, _option("quiet")] = False,
    fresh: Annotated[bool, _option("fresh")] = False,
    out: Annotated[str | None, _option("out", "DIR")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="print the version and stop", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Should AdaGrad help on this model and this data? Measures the task, trains both ways, and answers."""
    settings = Settings(
        out=default_directory(model, data) if out is None else out,
        loss=loss,
        samples=whole(samples, "samples"),
        probes=whole(probes, "probes"),
        batch_size=whole(batch_size, "batch_size"),
        batch_sizes=None
        if batch_sizes is None
        else tuple(whole(word, "batch_sizes") for word in separated(batch_sizes)),
        steps=whole(steps, "steps"),
        seeds="auto" if seeds.strip() == "auto" else whole(seeds, "seeds"),
        skip=() if skip is None else separated(skip) or (skip,),
        seed=whole(seed, "seed"),
        optimizers=separated(optimizers),
        learning_rates=None
        if learning_rates is None
        else tuple(number(word, "learning_rates") for word in separated(learning_rates)),
        schedule=schedule,  # type: ignore[arg-type]  # held against its choices by check()
        box=None if box is None else number(box, "box"),
        device=device,
        dtype=dtype,
        max_length=whole(max_length, "max_length"),
        features=whole(features, "features"),
        tokenizer=tokenizer,
        architecture=architecture,
        trust_pickle=trust_pickle,
        trust_remote_code=trust_remote_code,
        gap="auto" if gap.strip() == "auto" else number(gap, "gap"),
        memory=memory,
        budget=budget,
        rotate=rotate,
        training=not no_training,
        plan=plan,
        quiet=quiet,
        fresh=fresh,
    )
    check(settings)
    context.obj.append(Job(str(settings.out), partial(_diagnose, settings, model, data), resumes=not plan))


@report.command(cls=Command, context_settings=NAMES)
def report_command(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="a folder that `diagnose MODEL --data DATA` wrote")],
) -> None:
    """Write DIR/report.html again from what DIR holds."""
    context.obj.append(Job(directory, partial(_report, Path(directory))))


@models.command(cls=Command, context_settings=NAMES)
def models_command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="one of the names in the list")] = None,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            metavar="FILE",
            help="write the model with random weights to a file that `diagnose FILE` opens; a file of something else "
            "is not overwritten without --fresh",
        ),
    ] = None,
    seed: Annotated[str, typer.Option("--seed", metavar="N", help="what the weights follow")] = str(Settings.seed),
    fresh: Annotated[bool, typer.Option("--fresh", help="replace whatever FILE holds")] = False,
) -> None:
    """List the built-in models, or write one of them to a file."""
    settings = Settings(seed=whole(seed, "seed"), fresh=fresh)
    check(settings)
    if save is None:
        for given, option in ((fresh, "--fresh"), (settings.seed != Settings.seed, "--seed")):
            if given:
                raise InputError("only a model that is written takes it", option, "add `--save FILE`")
        context.obj.append(Job("", partial(_list_models, name)))
        return
    if name is None:
        raise InputError("NAME is missing", "", USAGE["diagnose models"])
    if not save.strip():
        raise InputError(f"`{printable(save)}` is not a name", "--save", "give the path of a file")
    context.obj.append(Job(save, partial(_save_model, settings, name, Path(save))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what goes wrong is told on stderr.

    0 finished, 1 a bug of ours (with a traceback), 2 input that cannot be used or no room, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    previous = signal.signal(signal.SIGTERM, _terminate)
    folder, resumes = "", False
    try:
        job = _parse(words)
        if isinstance(job, int):
            return job
        folder, resumes = job.folder, job.resumes
        code = job.call()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        _tell(f"interrupted: {interrupt}" if str(interrupt) else "interrupted")
        if resumes:
            _tell(f"hint: `{_again(words)}` goes on from there{_so_far(folder)}")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output went away; the folder is complete
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINISHED
    except Exception as error:
        unusable = error if isinstance(error, InputError) else _no_room(error, folder)
        if unusable is None:
            for line in traceback.format_exc().splitlines():
                _tell(line)
            return BUG
        _tell(f"error: {unusable}")
        if unusable.hint:
            _tell(f"hint: {unusable.hint}")
        return UNUSABLE
    finally:
        signal.signal(signal.SIGTERM, previous)


def _parse(words: list[str]) -> Job | int:
    """The job that the words name, or the exit code where they only asked for help or the version."""
    first = words[0] if words else ""
    if first in LATER_COMMANDS:
        raise InputError(first, NOT_YET)
    app, rest, name = (
        (COMMANDS[first], words[1:], f"diagnose {first}") if first in COMMANDS else (diagnose, words, "diagnose")
    )
    jobs: list[Job] = []
    try:
        typer.main.get_command(app)(rest, prog_name=name, obj=jobs)
    except SystemExit as end:
        if end.code:
            return int(end.code)
    return jobs[0] if jobs else FINISHED


def _pipeline() -> ModuleType:
    """The module of a run. Collections while it is imported would walk again and again through a million objects that
    stay: they take an eighth of all imports."""
    gc.disable()
    try:
        from diagnose import pipeline
    finally:
        gc.freeze()
        gc.enable()
    return pipeline


def _diagnose(settings: Settings, model: str, data: str) -> int:
    from diagnose.command.console import Lines, closing, plan_table

    with Lines(settings.quiet) as lines:
        try:
            if settings.plan:
                from diagnose.planning.plan import plan

                print(plan_table(plan(settings, model, data)))
                return FINISHED
            command = command_line(settings, model, data)
            diagnosis = _pipeline().execute(settings, model, data, command=command, events=lines)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stage {lines.stage}" if lines.stage else "before the first stage") from None
    path = str(Path(str(settings.out)) / "report.html")
    print(printable(path) if settings.quiet else closing(diagnosis, path))
    return FINISHED


def _list_models(name: str | None) -> int:
    from diagnose.inputs.models.catalogue import NETWORKS, named

    listed = list(NETWORKS.values()) if name is None else [named(name)]
    rows = [("name", "parameters", "takes", "form")]
    rows += [(each.name, each.size, each.takes, each.form) for each in listed]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(word.ljust(width) for word, width in zip(row[:3], widths, strict=True)), row[3]]))
    return FINISHED


def _save_model(settings: Settings, name: str, path: Path) -> int:
    from diagnose.inputs.models.catalogue import named

    network = named(name)
    from diagnose.inputs.models.save import write_built_in

    write_built_in(network, path, settings.seed, settings.fresh)
    size = f"{network.parameters:,} parameters {network.on}".rstrip()
    print(f"{printable(path)}: {name}, {size}, weights at random, seed {settings.seed}")
    return FINISHED


def _report(folder: Path) -> int:
    from reports import render
    from reports.record.diagnosis import Diagnosis

    page = render(Diagnosis.load(folder))
    path, side = folder / "report.html", folder / ".report.html.partial"
    side.write_bytes(page.encode())
    side.replace(path)
    print(f"report: {printable(path)}")
    return FINISHED


# -- errors --------------------------------------------------------------------------------------------


def _no_room(error: Exception, folder: str) -> InputError | None:
    """Memory, disk or folder that gave out, as an error of the user's; None for a bug of ours."""
    if out_of_memory(error):
        return InputError("out of memory", "", "use fewer `--samples`, a shorter `--max-length` or a smaller model")
    if not isinstance(error, OSError):
        return None
    if error.errno in DISK_FULL:
        return InputError("no room left on the disk", folder, "make room; the same command goes on from there")
    written = error.filename is not None and folder and _inside(str(error.filename), folder)
    if written and error.errno in UNWRITABLE:
        return InputError("the folder cannot be written", f"{folder}: {error.strerror}", "choose another with `--out`")
    return None


def _inside(path: str, folder: str) -> bool:
    where, home = os.path.abspath(path), os.path.abspath(folder)
    return where == home or where.startswith(home + os.sep)


def _program() -> list[str]:
    """How this program was called."""
    module = Path(sys.argv[0]).parts[-2:] == ("diagnose", "__main__.py")
    return ["python", "-m", "diagnose"] if module else ["diagnose"]


def _again(words: list[str]) -> str:
    """The command that goes on with what was interrupted."""
    return shlex.join([*_program(), *(word for word in words if word != "--fresh")])


def _so_far(folder: str) -> str:
    """How to see what there is, where there is something."""
    if not (Path(folder) / RESULT).is_file():
        return ""
    return f"; `{shlex.join([*_program(), 'report', folder])}` writes a page of what there is"


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run the way Ctrl-C does."""
    raise KeyboardInterrupt
