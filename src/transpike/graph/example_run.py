"""Runs the graph once on example inputs: shapes, and proof that samples of a batch do not influence each other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from transpike.errors import InputError
from transpike.graph.capture import source_of
from transpike.graph.clipped_activations import ramps
from transpike.graph.unwrap import unusable
from transpike.graph.walk import NodeVisitor

ROWS = 3
"""Samples in the probing batch: a number that layer sizes seldom have."""


Inputs = Tensor | list[Tensor] | tuple[Tensor, ...]
"""One tensor ``[N, *]``, or one per argument of the model."""


def inputs_from(inputs: Inputs) -> tuple[Tensor, ...]:
    """The arguments as a tuple."""
    return tuple(inputs) if isinstance(inputs, (list, tuple)) else (inputs,)


class _NodeError(Exception):
    """An operator failed on the probing batch."""

    def __init__(self, node: fx.Node, message: str) -> None:
        self.node = node
        self.message = message
        super().__init__(message)


def _record(gm: fx.GraphModule, keep: Callable[[fx.Node, Any], None], inputs: Sequence[Tensor]) -> None:
    """Runs the graph and tells ``keep`` every node's value."""
    visitor = NodeVisitor(gm, on_node=keep)
    visitor.extra_traceback = False
    try:
        visitor.run(*inputs)
    except Exception as error:  # whatever an operator of the user's raises
        raise _NodeError(visitor.current, first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What an error says, without the graph dumps that torch appends."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _sum(tensor: Tensor) -> float:
    """The sum, much faster than a test of every value; where it is finite all values are.

    In parts that torch adds up on one thread: those of its pool would go on spinning beside those of the kernels.
    """
    if tensor.numel() < 2**15 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return float(tensor.sum().item())
    return sum(part.sum().item() for part in torch.split(tensor.detach().view(-1), 2**14))


def check_inputs(inputs: Sequence[Any], where: str) -> int:
    """Checks a batch of input tensors; returns the number of samples.

    Raises:
        InputError: no tensor, an empty batch, batch sizes that differ, whole numbers, NaN or infinity.
    """
    if not inputs:
        raise InputError("no input given", where=where, fix="pass one tensor [N, *] per argument of the model")
    sizes = []
    for index, tensor in enumerate(inputs):
        name = f"{where}, input {index}"
        if not isinstance(tensor, Tensor):
            raise InputError(f"a tensor is expected, not {type(tensor).__name__}", where=name, fix="pass a tensor")
        kind = unusable(tensor)
        if kind:
            raise InputError(f"the input is {kind}", where=name, fix="pass a dense tensor of floats, with values")
        if tensor.dim() < 1:
            raise InputError("the tensor has no batch dimension", where=name, fix="give it the shape [N, *]")
        if not tensor.dtype.is_floating_point:
            raise InputError(
                f"{tensor.dtype} is not a floating type",
                where=name,
                fix="scale images to floats, as in training",
            )
        if tensor.shape[0] and not (math.isfinite(_sum(tensor)) or bool(torch.isfinite(tensor).all())):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(f"{bad} values are NaN or infinite", where=name, fix="clean the data before conversion")
        sizes.append(tensor.shape[0])
    if len(set(sizes)) > 1:
        raise InputError(f"inputs have different batch sizes {sizes}", where=where, fix="use one batch size")
    if sizes[0] == 0:
        raise InputError("the batch is empty", where=where, fix="pass at least one sample")
    return sizes[0]


def check_arguments(gm: fx.GraphModule, inputs: Sequence[Any], where: str) -> None:
    """Checks that there is an input for every argument of the model that has no default.

    Raises:
        InputError: there are fewer, or more than the model takes.
    """
    arguments = gm.graph.find_nodes(op="placeholder")
    if len(inputs) == len(arguments):
        return
    needed = [node for node in arguments if not node.args]
    if not len(needed) <= len(inputs) <= len(arguments):
        raise InputError(
            f"the model takes {len(needed)} input(s), got {len(inputs)}",
            where=where,
            fix="pass one tensor each for " + ", ".join(node.name for node in needed),
        )


def check_run(network: fx.GraphModule, inputs: tuple[Tensor, ...], reference: Tensor, where: str) -> int:
    """Checks the arguments of a run; returns the number of samples.

    Raises:
        InputError: they are unusable, or not on the device and in the precision of ``reference``.
    """
    batch = check_inputs(inputs, where)
    check_arguments(network, inputs, where)
    for index, tensor in enumerate(inputs):
        autocast = torch.is_autocast_enabled(tensor.device.type)
        if tensor.device != reference.device or (tensor.dtype != reference.dtype and not autocast):
            raise InputError(
                f"the input is {tensor.dtype} on {tensor.device}, the network {reference.dtype} on {reference.device}",
                where=f"{where}, input {index}",
                fix="move one of them with .to(...)",
            )
    return batch


def check_guards(guards: Sequence[tuple[int, int, int]], inputs: Sequence[Tensor], where: str) -> None:
    """Checks the sizes of inputs that a graph was made for.

    Args:
        guards: index of an input, dimension and size.
        inputs: a batch ``[N, *]`` per argument.
        where: what was called.

    Raises:
        InputError: an input has another size.
    """
    for index, dimension, size in guards:
        shape = inputs[index].shape if index < len(inputs) else ()
        if len(shape) > dimension and shape[dimension] != size:
            raise InputError(
                f"the input has size {shape[dimension]} in dimension {dimension}, the network was captured with {size}",
                where=f"{where}, input {index}",
                fix="give the samples that size, or convert the network again with example_inputs of this one",
            )


@contextmanager
def explain_shapes(inputs: Sequence[Tensor], expected: Sequence[Sequence[int]], where: str) -> Iterator[None]:
    """Where an operator fails on samples of another shape than the network was converted with, says so.

    Args:
        inputs: the batch that is run.
        expected: shape of one sample per argument.
        where: what was called.

    Raises:
        InputError: an operator failed, and the shapes are others.
    """
    try:
        yield
    except RuntimeError as error:
        shapes = [list(tensor.shape[1:]) for tensor in inputs]
        wanted = [list(shape) for shape in expected]
        if shapes == wanted:
            raise
        raise InputError(
            f"samples have shape {shapes}, the network was converted with {wanted}: {first_line(error)}",
            where=where,
            fix="give the samples the shape that the network was converted with",
        ) from error


def probing_batch(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Three different samples made from the example inputs (a single sample is varied)."""
    rows = []
    for tensor in inputs:
        index = torch.arange(ROWS, device=tensor.device)
        factor = 1.0 - index.to(tensor.dtype) / 8
        base = tensor[index % tensor.shape[0]]
        rows.append(base * factor.view(-1, *[1] * (tensor.dim() - 1)))
    return tuple(rows)


def examples_of(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[fx.Node, Any]:
    """Value of every node on these inputs; tensors have their shape, type and device, and no memory of their own.

    Raises:
        InputError: an operator fails on them.
    """
    examples: dict[fx.Node, Any] = {}

    def keep(node: fx.Node, value: Any) -> None:
        examples[node] = pytree.tree_map_only(Tensor, lambda each: each.new_empty(()).expand(each.shape), value)

    try:
        with torch.no_grad():
            _record(gm, keep, inputs)
    except _NodeError as error:
        given = ", ".join(f"{list(tensor.shape[1:])} {tensor.dtype}" for tensor in inputs)
        raise InputError(
            f"the model fails on samples of shape {given}: {error.message}",
            where=f"node {error.node.name!r} at {source_of(error.node)}",
            fix="pass example_inputs of the shape, dtype and device that the model takes",
        ) from error
    return examples


def shapes_of(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> dict[fx.Node, tuple[int, ...] | None]:
    """Shape of every tensor-valued node on these inputs; None for other values.

    Raises:
        InputError: an operator fails on them.
    """
    return {node: tensor_shape(value) for node, value in examples_of(gm, inputs).items()}


def layouts_of(
    gm: fx.GraphModule, inputs: Sequence[Tensor], shapes: Mapping[fx.Node, tuple[int, ...] | None]
) -> dict[fx.Node, tuple[int, int]]:
    """Which dimension holds the batch, and its rows per sample, for every value that is not ``[N, *]``.

    Found from the shapes for one sample and for the probing batch: where one dimension alone differs, in proportion.

    Args:
        gm: the graph.
        inputs: the probing batch.
        shapes: of every value for it.
    """
    if all(shape is None or shape[:1] == (ROWS,) for shape in shapes.values()) or not inputs:
        return {}
    single: dict[fx.Node, tuple[int, ...] | None] = {}

    def keep(node: fx.Node, value: Any) -> None:
        single[node] = tensor_shape(value)

    with torch.no_grad(), suppress(_NodeError):  # found again, and named, where the batch is checked
        _record(gm, keep, [tensor[-1:] for tensor in inputs])
    found = {}
    for node, shape in shapes.items():
        one = single.get(node)
        if shape is None or one is None or len(one) != len(shape):
            continue
        differing = [dim for dim, (many, few) in enumerate(zip(shape, one, strict=True)) if many != few]
        if len(differing) == 1 and shape[differing[0]] == ROWS * one[differing[0]]:
            layout = differing[0], one[differing[0]]
            if layout != (0, 1):
                found[node] = layout
    return found


def tensor_shape(value: Any) -> tuple[int, ...] | None:
    """The shape of a tensor; None for other values."""
    return tuple(value.shape) if isinstance(value, Tensor) else None


def batch_violations(
    gm: fx.GraphModule,
    inputs: Sequence[Tensor],
    batched: Mapping[fx.Node, bool],
    layouts: Mapping[fx.Node, tuple[int, int]],
) -> list[tuple[fx.Node, str]]:
    """The first operators whose value for one sample depends on the rest of the batch, or that lose the batch.

    Every ``batched`` node is computed for the batch and for its last sample alone, with ramps for staircases; where
    they differ once more in float64, in which sums in another order are nearly the same.

    Args:
        gm: the graph.
        inputs: the probing batch.
        batched: which values are batches.
        layouts: where the batch is, of values that are not ``[N, *]``.

    Returns:
        Pairs of a node and what is wrong with it; operators fed by one of them are not listed.
    """
    found = _violations(gm, inputs, batched, layouts)
    if not found or any(tensor.dtype == torch.float64 for tensor in inputs):
        return list(found.items())
    names = {node.name: is_batched for node, is_batched in batched.items()}
    moved = {node.name: layout for node, layout in layouts.items()}
    try:
        double = copy.deepcopy(gm).double()
        wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
        nodes = list(double.graph.nodes)
        again = _violations(
            double,
            wide,
            {node: names.get(node.name, False) for node in nodes},
            {node: moved[node.name] for node in nodes if node.name in moved},
        )
    except Exception:  # not every layer can be copied, or computes in float64
        return list(found.items())
    own = {node.name: node for node in gm.graph.nodes}  # what a false alarm stood in front of is found only now
    return [(own[node.name], what) for node, what in again.items()]


def _violations(
    gm: fx.GraphModule,
    inputs: Sequence[Tensor],
    batched: Mapping[fx.Node, bool],
    layouts: Mapping[fx.Node, tuple[int, int]],
) -> dict[fx.Node, str]:
    values: dict[fx.Node, Tensor] = {}
    violations: dict[fx.Node, str] = {}
    tainted: set[fx.Node] = set()

    def keep(node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor) and batched.get(node, False):
            values[node] = value

    def compare(node: fx.Node, value: Any) -> None:
        if any(source in tainted for source in node.all_input_nodes):
            tainted.add(node)
        elif node in values and isinstance(value, Tensor):
            dim, rows = layouts.get(node, (0, 1))
            together = values[node].movedim(dim, 0) if values[node].dim() > dim else values[node]
            value = value.movedim(dim, 0) if value.dim() > dim else value
            if together.dim() == 0 or len(together) != ROWS * rows or together.shape[1:] != value.shape[1:]:
                violations[node] = (
                    f"its result has shape {tuple(together.shape)} for {ROWS} samples, {tuple(value.shape)} for one: "
                    "no dimension is a multiple of the number of samples"
                )
                tainted.add(node)
            elif not _close(together[-rows:], value):
                violations[node] = "its result for one sample depends on the other samples of the batch"
                tainted.add(node)

    with torch.no_grad(), ramps(gm):
        _record(gm, keep, inputs)
        try:
            _record(gm, compare, [tensor[-1:] for tensor in inputs])
        except _NodeError as error:
            if error.node not in tainted:
                violations[error.node] = f"it fails for a single sample: {error.message}"
    return violations


def _close(a: Tensor, b: Tensor) -> bool:
    if a.dtype.is_complex:
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    scale = float(a.nan_to_num(0.0, 0.0, 0.0).abs().amax()) if a.numel() else 0.0
    tolerance = 1e-3 if a.dtype in (torch.float16, torch.bfloat16) else 1e-4
    same = (a == b) | (a.isnan() & b.isnan())  # NaN is the model's own fault, told elsewhere
    return bool((same | ((a - b).abs() <= tolerance * (scale + 1e-6))).all())
