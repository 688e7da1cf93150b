"""Errors that say what is wrong, where, why, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass


class TranspikeError(Exception):
    """Base of every error that transpike raises about a model, a file or data.

    Wrong values of a setting (a negative number of levels, say) are plain ``ValueError``.

    Args:
        what: what went wrong, one sentence.
        where: the node, file, line or setting concerned.
        fix: what the reader can do now.
        shell_fix: the same on the command line, where it is said otherwise.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "", shell_fix: str = "") -> None:
        self.what = what
        self.where = where
        self.fix = fix
        self.shell_fix = shell_fix or shell_words(fix)
        super().__init__(self._message(self.fix))

    def _message(self, fix: str) -> str:
        lines = [self.what]
        lines += [f"  where: {self.where}"] if self.where else []
        lines += [f"  fix:   {fix}"] if fix else []
        return "\n".join(lines)

    def shell_message(self) -> str:
        """The message for somebody at the command line."""
        return self._message(self.shell_fix)


def shell_words(fix: str) -> str:
    """A fix in the words of the command line: ``leaf_modules=['a']`` is ``--leaf a``."""
    return re.sub(r"leaf_modules=\[['\"]?(.+?)['\"]?\]", r"--leaf \1", fix)


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 site``, ``2 sites``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def known_words(word: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown word: the nearest ones, then all."""
    known = list(known)
    near = difflib.get_close_matches(word, known, 2, 0.6)
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"known: {', '.join(known)}"


class TraceError(TranspikeError):
    """The model could not be traced into one torch.fx graph."""


class StateError(TranspikeError):
    """A streaming state does not fit the network or the batch it is used with."""


class InputError(TranspikeError):
    """A tensor given to a network has a wrong shape or type, or holds NaN or infinity."""


class CalibrationError(TranspikeError):
    """Calibration data is missing, empty or unusable, or a method does not fit the network."""


class RangeError(TranspikeError):
    """A drive left the range of the network's type: it became infinite or NaN though weights and inputs are finite."""


class ClippingWarning(UserWarning):
    """Thresholds cut off much of what sites carry on calibration data."""


class VerificationError(TranspikeError):
    """A converted network does not compute what its source computes."""


class CheckpointError(TranspikeError):
    """A file is not a transpike checkpoint, is damaged, or does not fit the model."""


class OutputError(TranspikeError):
    """A file cannot be written, or must not be written over."""


class DataError(TranspikeError):
    """A data set is missing or malformed."""


class ConfigError(TranspikeError):
    """A configuration, in a file or on the command line, names something unknown or a setting that is refused."""


class TrainingError(TranspikeError):
    """Training diverged, or a file to resume from belongs to another run."""


class DivergedError(TrainingError):
    """A training cannot go on as it is: the loss or the network is not finite, or nothing is learnt."""


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
        node: name of the graph node; empty where the whole model is meant.
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
        return unsupported_lines([self])[0]


def unsupported_lines(unsupported: Sequence[UnsupportedOperator], *, shell: bool = False) -> list[str]:
    """One paragraph for all operators of a kind that fail for one reason: how many, the first source line, what to do.

    Args:
        unsupported: the operators.
        shell: say what to do in the words of the command line.
    """
    groups: dict[tuple[str, str], list[UnsupportedOperator]] = {}
    for found in unsupported:
        groups.setdefault((found.operator, found.reason), []).append(found)
    lines = []
    for (operator, reason), members in groups.items():
        first, fix = members[0], members[0].fix
        name, at = f"{operator} (node {first.node!r})" if first.node else operator, first.source
        if len(members) > 1:
            name, at = f"{len(members)} x {operator} (the first is node {first.node!r})", f"{first.source} (the first)"
        fix = shell_words(fix) if shell else fix
        lines.append(f"{name}\n    at:  {at}\n    why: {reason}\n    fix: {fix}")
    return lines


class ConversionError(TranspikeError):
    """The model holds operators that cannot be converted.

    Attributes:
        unsupported: all of them; the message groups them by kind.
    """

    def __init__(self, unsupported: Sequence[UnsupportedOperator]) -> None:
        self.unsupported = tuple(unsupported)
        super().__init__(self._listed(shell=False))

    def shell_message(self) -> str:
        """The message for somebody at the command line."""
        return self._listed(shell=True)

    def _listed(self, shell: bool) -> str:
        count = len(self.unsupported)
        noun = "operator does" if count == 1 else "operators do"
        lines = unsupported_lines(self.unsupported, shell=shell)
        return "\n".join([f"{count} {noun} not convert:", *(f"  - {line}" for line in lines)])


class ExportError(TranspikeError):
    """A network holds what another format or library does not have.

    Args:
        target: the format or library.
        unsupported: all of it.

    Attributes:
        unsupported: all of it; the message groups by kind.
    """

    def __init__(self, target: str, unsupported: Sequence[UnsupportedOperator]) -> None:
        self.target = target
        self.unsupported = tuple(unsupported)
        super().__init__(self._listed(shell=False))

    def shell_message(self) -> str:
        """The message for somebody at the command line."""
        return self._listed(shell=True)

    def _listed(self, shell: bool) -> str:
        number = count(len(unsupported_lines(self.unsupported)), "reason")
        lines = unsupported_lines(self.unsupported, shell=shell)
        return "\n".join(
            [f"the network cannot be written as {self.target}, for {number}:", *(f"  - {x}" for x in lines)]
        )


def reason(problem: TranspikeError | ValueError) -> str:
    """Why something was refused, in one sentence, for tables."""
    if isinstance(problem, ConversionError):
        return problem.unsupported[0].reason
    return problem.what if isinstance(problem, TranspikeError) else str(problem)
