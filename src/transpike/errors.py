"""Errors that say what is wrong, where, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


class TranspikeError(Exception):
    """Base of every error that transpike raises about a model, a file or data.

    Wrong values of a setting (a negative number of levels, say) are plain ``ValueError``.

    Args:
        what: what went wrong, one sentence.
        where: the node, file, line or setting concerned.
        fix: what the reader can do now.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what = what
        self.where = where
        self.fix = fix
        lines = [what]
        if where:
            lines.append(f"  where: {where}")
        if fix:
            lines.append(f"  fix:   {fix}")
        super().__init__("\n".join(lines))


class TraceError(TranspikeError):
    """The model could not be traced into one torch.fx graph."""


class StateError(TranspikeError):
    """A streaming state does not fit the network or the batch it is used with."""


class InputError(TranspikeError):
    """A tensor given to a network has a wrong shape or type, or holds NaN or infinity."""


class CalibrationError(TranspikeError):
    """Calibration data is missing, empty or unusable, or a method does not fit the network."""


class VerificationError(TranspikeError):
    """A converted network does not compute what its source computes."""


class CheckpointError(TranspikeError):
    """A file is not a transpike checkpoint, is damaged, or does not fit the model."""


class DataError(TranspikeError):
    """A data set is missing or malformed."""


class ConfigError(TranspikeError):
    """A configuration, in a file or on the command line, names something unknown or a setting that is refused."""


class TrainingError(TranspikeError):
    """Training diverged, or a file to resume from belongs to another run."""


class MissingExtraError(TranspikeError):
    """A library that an optional part of transpike needs is not installed."""


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """Imports of an optional library: where it is missing, says how to install it.

    Args:
        extra: name of the extra that brings the library.
        purpose: what needs it.

    Raises:
        MissingExtraError: a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{purpose} needs {error.name}, which is not installed", fix=f'pip install "transpike[{extra}]"'
        ) from error


class RecipeError(TranspikeError):
    """A recipe is unknown or malformed."""


class ModelError(TranspikeError):
    """A name given on the command line does not lead to a model."""


@dataclass(frozen=True)
class UnsupportedOperator:
    """One operator that does not convert.

    Attributes:
        node: name of the graph node.
        operator: what it calls, for example ``torch.nn.GELU`` .
        source: ``file:line`` and the line itself, as far as tracing recorded it.
        reason: why it cannot be converted.
        fix: what the user can do.
    """

    node: str
    operator: str
    source: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return (
            f"{self.operator} (node {self.node!r})\n    at:  {self.source}\n    why: {self.reason}\n    fix: {self.fix}"
        )


class ConversionError(TranspikeError):
    """The model holds operators that cannot be converted; all of them are listed."""

    def __init__(self, unsupported: Sequence[UnsupportedOperator]) -> None:
        self.unsupported = tuple(unsupported)
        count = len(self.unsupported)
        noun = "operator does" if count == 1 else "operators do"
        super().__init__(f"{count} {noun} not convert:\n" + "\n".join(f"  - {o}" for o in self.unsupported))


def reason(problem: TranspikeError | ValueError) -> str:
    """Why something was refused, in one sentence, for tables."""
    if isinstance(problem, ConversionError):
        return problem.unsupported[0].reason
    return problem.what if isinstance(problem, TranspikeError) else str(problem)
