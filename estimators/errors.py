"""The one exception for input that cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """Input that cannot be used: what is wrong, where, and the way out.

    Args:
        what: the fault, without a final full stop (``"NaN in the data"``).
        where: file, row, tensor or option that holds it; may be empty.
        hint: what to do about it; may be empty.

    Examples:
        >>> from estimators import InputError
        >>> error = InputError("no such file", "rows.json", "check the path")
        >>> print(error, "-", error.hint)
        no such file: rows.json - check the path
    """

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(f"{what}: {where}" if where else what)


def first_line(error: BaseException) -> str:
    """What an error says first; the name of its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
