"""A file from the network into the cache: whole and usable, or not at all."""

from __future__ import annotations

import http.client
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from diagnose.errors import InputError
from diagnose.settings import printable

CONNECT_SECONDS = 10.0
"""Until the server answers, looking up its name included."""
TOTAL_SECONDS = 300.0
LARGEST = 100_000_000
"""Bytes that a file may have."""
PIECE = 1 << 16
Opener = Callable[..., Any]
"""As urllib.request.urlopen: (url, timeout=seconds) -> a response that reads and closes."""


class Unreachable(Exception):
    """The download failed; the message is the reason in a few words."""


def download(url: str, path: Path, accept: Callable[[bytes], object], opener: Opener = urllib.request.urlopen) -> None:
    """Fetch ``url`` and keep it as ``path``, by way of a file beside it that is renamed in the end.

    Args:
        accept: called with the content before it is kept; raises InputError where it cannot be used.

    Raises:
        Unreachable: no network, no answer in time, too large, not usable, or no place to keep it.
    """
    content = _content(_opened(url, opener))
    try:
        accept(content)
    except InputError as error:
        raise Unreachable(f"what came back cannot be used ({error.what})") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                file.write(content)
                file.close()
                os.replace(part, path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise Unreachable(f"it cannot be kept in the cache ({_reason(error)})") from None


def _opened(url: str, opener: Opener) -> IO[bytes]:
    """The response. Opened in a thread of its own: a timeout of the socket does not cover the look-up of the name."""
    answer: list[IO[bytes]] = []
    failure: list[BaseException] = []

    def connect() -> None:
        try:
            answer.append(opener(url, timeout=CONNECT_SECONDS))
        except BaseException as error:  # handed over to the thread that waits
            failure.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if answer:
        return answer[0]
    if not failure:
        raise Unreachable(f"no answer within {CONNECT_SECONDS:g} seconds")
    if isinstance(failure[0], (OSError, http.client.HTTPException)):
        raise Unreachable(_reason(failure[0])) from failure[0]
    raise failure[0]


def _content(response: IO[bytes]) -> bytes:
    end, pieces, size = time.monotonic() + TOTAL_SECONDS, [], 0
    try:
        with closing(response):
            while piece := response.read(PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > LARGEST:
                    raise Unreachable(f"larger than {LARGEST / 1e6:,.0f} MB")
                if time.monotonic() > end:
                    raise Unreachable(f"not done within {TOTAL_SECONDS:g} seconds")
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(_reason(error)) from error
    return b"".join(pieces)


def _reason(error: BaseException) -> str:
    """In a few words why the network or the disk said no."""
    cause = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    if isinstance(cause, OSError):
        cause = cause.strerror or cause
    return printable(str(cause) or type(error).__name__)
