"""Python expressions as text, broken into lines as ``ruff format`` and Black break them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

WIDTH = 88
"""The longest line, the default of ruff and Black."""


@dataclass(frozen=True)
class Bracket:
    """``head + open + items + close``, such as a call, a list, or a subscript."""

    head: str
    items: tuple[Expression, ...]
    open: str = "("
    close: str = ")"
    tail: str = ""

    def __str__(self) -> str:
        inner = ", ".join(map(str, self.items))
        comma = "," if self.open == "(" and not self.head and len(self.items) == 1 else ""  # a tuple of one
        return f"{self.head}{self.open}{inner}{comma}{self.close}{self.tail}"


@dataclass(frozen=True)
class Comprehension:
    """``[element loop]``, such as ``[f(x[t]) for t in range(steps)]``."""

    element: Expression
    loop: str

    def __str__(self) -> str:
        return f"[{self.element} {self.loop}]"


Expression = str | Bracket | Comprehension


def call(function: str, *arguments: Expression, **named: Expression) -> Bracket:
    """``function(arguments, name=value)``."""
    return Bracket(function, (*arguments, *(_named(name, value) for name, value in named.items())))


def _named(name: str, value: Expression) -> Expression:
    if isinstance(value, Bracket):
        return Bracket(f"{name}={value.head}", value.items, value.open, value.close, value.tail)
    return f"{name}={value}"


def literal(value: Any, name_of: Callable[[fx.Node], str]) -> Expression:
    """An argument of a node.

    Args:
        value: nodes, numbers, words, types, slices, and tuples, lists and dicts of them.
        name_of: the text of a node.

    Raises:
        TypeError: it has no text.
    """

    def text(each: Any) -> Expression:
        return literal(each, name_of)

    if isinstance(value, fx.Node):
        return name_of(value)
    if isinstance(value, str):
        return '"' + repr(f"'{value}")[2:-1].replace('"', '\\"') + '"'
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or value is Ellipsis or isinstance(value, bool | int | float):
        return "..." if value is Ellipsis else repr(value)
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if isinstance(value, torch.device):
        return call("torch.device", f'"{value}"')
    if isinstance(value, slice):
        ends = ["" if end is None else str(text(end)) for end in (value.start, value.stop)]
        return ":".join(ends) + ("" if value.step is None else f":{text(value.step)}")
    if isinstance(value, dict):
        items = tuple(_keyed(str(text(key)), text(each)) for key, each in value.items())
        return Bracket("", items, "{", "}")
    if isinstance(value, tuple):
        return Bracket("", tuple(map(text, value)))
    if isinstance(value, list):
        return Bracket("", tuple(map(text, value)), "[", "]")
    raise TypeError(f"{type(value).__name__} has no text")


def _keyed(key: str, value: Expression) -> Expression:
    if isinstance(value, Bracket):
        return Bracket(f"{key}: {value.head}", value.items, value.open, value.close, value.tail)
    return f"{key}: {value}"


def statement(start: str, value: Expression, indent: int) -> list[str]:
    """The lines of ``start value``, such as ``x = f(y)``.

    Args:
        start: what stands in front, with its space.
        value: the expression.
        indent: spaces in front.
    """
    space = " " * indent
    flat = f"{space}{start}{value}"
    if len(flat) <= WIDTH:
        return [flat]
    long = isinstance(value, Bracket) and len(f"{space}{start}{value.head}{value.open}") > WIDTH
    if isinstance(value, str) or long:
        return [f"{space}{start}(", f"{space}    {value}", f"{space})"]
    if isinstance(value, Comprehension):
        inside = [f"{space}    {value.element} {value.loop}"]
        if len(inside[0]) > WIDTH:
            inside = [*statement("", value.element, indent + 4), f"{space}    {value.loop}"]
        return [f"{space}{start}[", *inside, f"{space}]"]
    return _broken(start, value, indent, "")


def _broken(start: str, value: Bracket, indent: int, end: str) -> list[str]:
    space, inner = " " * indent, " " * (indent + 4)
    lines = [f"{space}{start}{value.head}{value.open}"]
    together = inner + ", ".join(map(str, value.items))
    single = len(value.items) == 1 and value.open == "(" and not value.head
    if len(together) <= WIDTH and not single and value.open != "{":
        lines.append(together)
    else:
        for item in value.items:
            flat = f"{inner}{item},"
            if len(flat) <= WIDTH or not isinstance(item, Bracket):
                lines.append(flat)
            else:
                lines += _broken("", item, indent + 4, ",")
    return [*lines, f"{space}{value.close}{value.tail}{end}"]


def text_block(words: Sequence[str], indent: int) -> list[str]:
    """Words in lines of at most the width."""
    lines, line = [], " " * indent
    for word in words:
        if len(line) + len(word) + 1 > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = " " * indent
        line += word + " "
    return [*lines, line.rstrip()]
