"""The command line: words to Settings, errors to exit codes; what is measured is decided elsewhere.

Importing it loads no torch, so that ``diagnose --help`` answers at once. Parsing only records a job; the job
runs afterwards, outside of typer, whose main would swallow an interrupt.
"""

from __future__ import annotations

import difflib
import errno
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from diagnose import __version__
from diagnose.errors import BUG, FINISHED, INTERRUPTED, UNUSABLE, InputError
from diagnose.schema import NOT_YET
from diagnose.settings import OPTIMIZERS, Settings, check, command_line, default_directory, flag, printable

LATER_COMMANDS = ("compare", "datasets", "models", "calibrate")
LATER_OPTIONS = (
    "--rotate",
    "--budget",
    "--tokenizer",
    "--architecture",
    "--parameters",
    "--memory",
    "--target",
    "--stop-when",
    "--batch-sizes",
    "--trust-pickle",
    "--trust-remote-code",
)
USAGE = "`diagnose MODEL --data DATA`, such as `diagnose logreg --data breast-cancer`"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
HELP = {item.name: item.metadata["help"] for item in fields(Settings)}
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}
NAMES: dict[str, Any] = {"help_option_names": ["--help", "-h"]}


@dataclass(frozen=True)
class Job:
    """What the words asked for: a call that returns the exit code, and the folder that it writes."""

    folder: str
    call: Callable[[], int]


class Command(TyperCommand):
    """A command whose usage errors look like all others."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        words = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except typer.TyperException as error:
            raise _usage(error, words, str(info_name)) from None


def _option(name: str, metavar: str | None = None) -> Any:
    return typer.Option(flag(name), help=HELP[name], metavar=metavar)


def _version(asked: bool) -> None:
    if asked:
        print(f"diagnose {__version__}")
        raise typer.Exit(FINISHED)


diagnose = typer.Typer(**PLAIN)
report = typer.Typer(**PLAIN)
COMMANDS = {"report": report}


@diagnose.command(
    cls=Command,
    context_settings=NAMES,
    epilog="`diagnose report DIR` writes DIR/report.html again from what DIR holds.",
)
def diagnose_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="logreg, softmax, mlp, cnn or gpt2-mini")],
    data: Annotated[
        str, typer.Option("--data", metavar="DATA", help="a data set's name, or a file: LIBSVM text, .npz, .txt")
    ],
    loss: Annotated[str | None, _option("loss", "cross-entropy|logistic|squared")] = None,
    samples: Annotated[str | None, _option("samples", "N")] = None,
    probes: Annotated[str | None, _option("probes", "N")] = None,
    batch_size: Annotated[str | None, _option("batch_size", "N")] = None,
    steps: Annotated[str | None, _option("steps", "N")] = None,
    seeds: Annotated[str, _option("seeds", "K")] = str(Settings.seeds),
    seed: Annotated[str, _option("seed", "N")] = str(Settings.seed),
    optimizers: Annotated[str, _option("optimizers", "NAMES")] = ",".join(OPTIMIZERS),
    learning_rates: Annotated[str | None, _option("learning_rates", "RATES")] = None,
    device: Annotated[str | None, _option("device", "NAME")] = None,
    dtype: Annotated[str | None, _option("dtype", "float32|float64")] = None,
    max_length: Annotated[str | None, _option("max_length", "N")] = None,
    features: Annotated[str | None, _option("features", "N")] = None,
    gap: Annotated[str | None, _option("gap", "G")] = None,
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
        samples=_whole(samples, "samples"),
        probes=_whole(probes, "probes"),
        batch_size=_whole(batch_size, "batch_size"),
        steps=_whole(steps, "steps"),
        seeds=_whole(seeds, "seeds"),
        seed=_whole(seed, "seed"),
        optimizers=_words(optimizers),
        learning_rates=None
        if learning_rates is None
        else tuple(_number(word, "learning_rates") for word in _words(learning_rates)),
        device=device,
        dtype=dtype,
        max_length=_whole(max_length, "max_length"),
        features=_whole(features, "features"),
        gap=None if gap is None else _number(gap, "gap"),
        training=not no_training,
        plan=plan,
        quiet=quiet,
        fresh=fresh,
    )
    check(settings)
    context.obj.append(Job(str(settings.out), partial(_diagnose, settings, model, data)))


@report.command(cls=Command, context_settings=NAMES)
def report_command(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="a folder that `diagnose MODEL --data DATA` wrote")],
) -> None:
    """Write DIR/report.html again from what DIR holds."""
    context.obj.append(Job(directory, partial(_report, Path(directory))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what goes wrong is told on stderr.

    0 finished, 1 a bug of ours (with a traceback), 2 input that cannot be used or no room, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    previous = signal.signal(signal.SIGTERM, _terminate)
    folder = ""
    try:
        job = _parse(words)
        if isinstance(job, int):
            return job
        folder = job.folder
        code = job.call()
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        _tell(f"interrupted: {interrupt}" if str(interrupt) else "interrupted")
        _tell(f"hint: `{_again(words)}` goes on from there")
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


def _diagnose(settings: Settings, model: str, data: str) -> int:
    from diagnose.console import Lines, closing, plan_table

    with Lines(settings.quiet) as lines:
        try:
            from diagnose import pipeline

            if settings.plan:
                print(plan_table(pipeline.plan(settings, model, data)))
                return FINISHED
            command = command_line(settings, model, data)
            diagnosis = pipeline.execute(settings, model, data, command=command, events=lines)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stage {lines.stage}" if lines.stage else "before the first stage") from None
    path = str(Path(str(settings.out)) / "report.html")
    print(printable(path) if settings.quiet else closing(diagnosis, path))
    return FINISHED


def _report(folder: Path) -> int:
    from diagnose.schema import Diagnosis
    from reports import render

    page = render(Diagnosis.load(folder))
    path, side = folder / "report.html", folder / ".report.html.partial"
    side.write_bytes(page.encode())
    side.replace(path)
    print(f"report: {printable(path)}")
    return FINISHED


# -- words ---------------------------------------------------------------------------------------------


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _whole(word: str | None, name: str) -> Any:
    """A whole number; None stays None."""
    if word is None:
        return None
    digits = word.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise InputError(f"`{word}` is not a whole number", flag(name), HELP[name])
    return int(word)


def _number(word: str, name: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise InputError(f"`{word}` is not a number", flag(name), HELP[name]) from None


# -- errors --------------------------------------------------------------------------------------------


def _usage(error: Any, words: list[str], command: str) -> InputError:
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
    near = difflib.get_close_matches(words[0], list(COMMANDS), n=1) if words and command == "diagnose" else []
    if near:
        return InputError("unknown command", words[0], f"did you mean `diagnose {near[0]}`?")
    usage = USAGE if command == "diagnose" else f"`{command} DIR`"
    if parameter is not None:
        return InputError(f"{parameter.metavar or parameter.name} is missing", "", usage)
    return InputError(_sentence(error), "", usage)


def _sentence(error: Any) -> str:
    text = str(error.format_message()).rstrip(".")
    return text[:1].lower() + text[1:]


def _no_room(error: Exception, folder: str) -> InputError | None:
    """Memory, disk or folder that gave out, as an error of the user's; None for a bug of ours."""
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    ):
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


def _again(words: list[str]) -> str:
    """The command that goes on with what was interrupted."""
    program = (
        ["python", "-m", "diagnose"] if Path(sys.argv[0]).parts[-2:] == ("diagnose", "__main__.py") else ["diagnose"]
    )
    return shlex.join([*program, *(word for word in words if word != "--fresh")])


def _tell(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run the way Ctrl-C does."""
    raise KeyboardInterrupt
