"""The digest that decides what is the same run: it notices every change of value, type, shape, name and order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import pytest
import torch
from torch import nn

from transpike.rules import Maximum, PerChannel
from transpike.serialization.digest import digest, digest_batches, digest_next
from transpike.serialization.environment import environment

X = torch.arange(6.0)
DIFFERENT = [
    *(X, X.double(), X.view(2, 3), X.flip(0), X.int(), torch.tensor(0.0), torch.tensor(()), torch.zeros(0, 2)),
    *([X], [X, X], [[X], X], [X, [X]], {"a": X}, {"b": X}, {"a": [X]}),
    *(None, "", "None", 0, 0.0, False, "0", [], {}, [0], ["0"], ["a", "b"], ["ab"], ["a b"]),
    *(Maximum(), Maximum(PerChannel()), PerChannel(), nn.Linear(2, 2), nn.Conv1d(2, 2, 1)),
]


def test_what_differs_has_another_digest() -> None:
    for one, other in combinations(DIFFERENT, 2):
        assert digest(one) != digest(other), (one, other)
    assert digest(1, 2) != digest(12)


def test_what_is_the_same_has_the_same_digest() -> None:
    assert digest(X) == digest(X.clone()) == digest(torch.stack([X, -X], 1)[:, 0])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest((1, X)) == digest([1, X])
    torch.manual_seed(0)
    first = nn.Linear(3, 3)
    torch.manual_seed(0)
    assert digest(first) == digest(nn.Linear(3, 3))
    with torch.no_grad():
        changed = nn.Linear(3, 3)
        changed.load_state_dict(first.state_dict())
        changed.bias[2] += 1e-7
    assert digest(first) != digest(changed)


def test_batches_one_by_one_or_all_together() -> None:
    pairs = [(X + k, torch.tensor([k])) for k in range(3)]
    assert digest_batches(pairs) == digest_next(digest_next(digest_next("", pairs[0]), pairs[1]), pairs[2])
    assert len({digest_batches(some) for some in (pairs, pairs[:2], pairs[::-1], [], iter(pairs[1:]))}) == 5


def test_what_cannot_be_told_apart_is_refused() -> None:
    @dataclass(frozen=True)
    class Odd:
        field: object

    with pytest.raises(TypeError, match="cannot digest a function"):
        digest(Odd(lambda: None))


def test_the_environment_says_where_and_when() -> None:
    found = environment()
    assert found.cpu
    assert found.cores >= 1
    assert found.threads == torch.get_num_threads()
    assert found.torch == torch.__version__
    assert found.date.endswith("+00:00")
    assert all(isinstance(value, str | int) for value in vars(found).values())
