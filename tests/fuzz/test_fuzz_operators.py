"""The table of operators against values, and a few networks; `make fuzz` tries many."""

import operators
import pytest
import torch

from transpike.graph.linear_operators import FORMS

NAMES = operators.all_names()


def test_every_row_of_the_table_is_drawn():
    found = {target for _, kind, target, _ in operators.rows() if target is not getattr}
    assert found == set(FORMS)


@pytest.mark.parametrize("part", range(8))
def test_the_table_says_what_the_values_say(part):
    """Every spelling of every row, with each choice of the arguments that change from step to step."""
    for name in NAMES[part::8]:
        compared = sum(operators.check_table(name, seed) for seed in range(2 if "not linear" in name else 4))
        assert compared or "not linear" in name, f"no valid call of {name} was drawn"


@pytest.mark.parametrize("part", range(4))
def test_networks_with_an_operator(part):
    """One spelling in twelve: conversion, answer, and engine."""
    outcomes = [operators.check_network(name, part) for name in NAMES[part::12]]
    assert {"converted", "kept behind the end"} <= set(outcomes)


@pytest.mark.parametrize("row", ["softmax", "add"])
def test_a_wrong_row_is_found(row, monkeypatch):
    """The check itself can fail: a softmax in the table, and a sum that is missing in it."""
    changed = dict(FORMS)
    if row == "add":
        changed.pop(torch.add)
        name = "torch.add"
    else:
        changed[torch.softmax] = FORMS[torch.neg]
        name = "not linear: torch.softmax"
    monkeypatch.setattr("transpike.graph.linear_operators.FORMS", changed)
    with pytest.raises(AssertionError, match="the table says"):
        operators.check_table(name, 0)


def test_a_row_without_a_rule_fails(monkeypatch):
    monkeypatch.delitem(operators.RULES, "roll")
    with pytest.raises(LookupError, match=r"no rule draws torch\.roll"):
        operators.check_table("torch.roll", 0)
