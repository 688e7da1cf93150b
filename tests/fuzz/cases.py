"""What the programs of this folder share: numbered cases, each of which makes itself again from its number."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def run_cases(
    about: str, number_of_cases: int, outcome: Callable[[int], tuple[str, str]], words: Sequence[str] | None = None
) -> int:
    """Tries cases and prints those that went wrong; returns the exit status, 1 if there were any.

    Args:
        about: what the cases are, for ``--help``.
        number_of_cases: how many are tried where nothing is said.
        outcome: of a case by its number: a word, ``wrong`` for a failure, and what there is to say about it.
        words: of the command line; None takes those of this process.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case, in thousands of millions")
    parser.add_argument("--cases", type=int, help=f"how many (default: {number_of_cases}, or what the minutes allow)")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--only", type=int, help="one case, by the number that was printed")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    first = given.seed * 10**9
    last = first + (given.cases or (number_of_cases if given.minutes is None else 10**9))
    numbers = range(first, last) if given.only is None else range(given.only, given.only + 1)
    end = float("inf") if given.minutes is None else time.monotonic() + 60 * given.minutes
    outcomes: Counter[str] = Counter()
    for number in numbers:
        if time.monotonic() > end:
            break
        found, what = outcome(number)
        outcomes[found] += 1
        if found == "wrong" or given.only is not None:
            again = f"python tests/fuzz/{Path(sys.argv[0]).name} --only {number}"
            print(f"{number}: {found}: {what}\n  again: {again}", flush=True)
    print(json.dumps(dict(outcomes)))
    return int(outcomes["wrong"] > 0)
