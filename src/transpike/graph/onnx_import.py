"""ONNX files as modules: onnx2torch brings the operators; shapes are Python numbers."""

from __future__ import annotations

import itertools
import keyword
import linecache
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike.errors import ConversionError, ModelError, UnsupportedOperator, needs_extra
from transpike.graph.onnx_operators import LONGEST, OnnxOperator
from transpike.serialization.model_info import InputSpec, ModelInfo, set_model_info

_OPSET = 17
"""The newest version of ONNX that onnx2torch knows most operators of."""
_NUMBERS = frozenset(["Resize", "Upsample", "Slice", "Pad", "Range", "TopK", "Tile"])
"""Operators whose arguments behind the first are numbers, whatever their type."""
_ARITHMETIC = frozenset(["Add", "Sub", "Mul", "Div", "Pow"])


class OnnxNetwork(nn.Module):
    """A network from an ONNX file; it computes what the file says, for any number of samples where the file allows it.

    Args:
        file: where it comes from; operators are shown as lines of this file.
        code: its forward as Python source.
        modules: what the code calls, by name.
        constants: what the code reads, by name.
    """

    def __init__(self, file: str, code: str, modules: dict[str, nn.Module], constants: dict[str, Tensor]) -> None:
        super().__init__()
        self.file, self.code = file, code
        for name, module in modules.items():
            self.add_module(name, module)
        for name, tensor in constants.items():
            self.register_buffer(name, tensor)
        self.eval()

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs of the file: one tensor, or a tuple."""
        return _compiled(self.file, self.code)(self, *inputs)


@cache
def _compiled(file: str, code: str) -> Callable[..., Any]:
    """The function of some source, whose lines error messages can show."""
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    space: dict[str, Any] = {}
    exec(compile(code, file, "exec"), space)  # made here, of names that are identifiers and of numbers
    function: Callable[..., Any] = space["forward"]
    return function


def load_onnx(path: Path | str) -> OnnxNetwork:
    """A network from an ONNX file, ready for `inspect` and `convert`.

    Its weights are the file's. A batch dimension that was exported as dynamic takes any batch; where the file fixes the
    number of samples in the middle of the network, running it names that node.

    Args:
        path: the file; weights in files next to it are read, too.

    Raises:
        MissingExtraError: onnx or onnx2torch is not installed.
        ModelError: there is no such file, or it is no ONNX model.
        ConversionError: it holds operators that cannot be imported.
    """
    with needs_extra("onnx", "an ONNX file"):
        import onnx
        import onnx2torch
    path = Path(path)
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path))
    try:
        model = onnx.load(str(path))
        _constants_to_initializers(model.graph)
        if not model.graph.node:
            raise ValueError("it holds no operators")
    except Exception as error:  # protobuf, missing files with weights, shapes that do not fit
        raise ModelError(f"it is no ONNX model: {error}", where=str(path), fix="export it again") from error
    model = _importable(model, path)
    types = _named_by_number(model.graph)
    ranked, guessed = _with_ranks(model)
    try:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always", UserWarning)
            graph = onnx2torch.convert(ranked).eval()
    except Exception as error:  # operators with settings that onnx2torch does not know
        raise ModelError(
            f"onnx2torch cannot import it: {error or type(error).__name__}",
            where=str(path),
            fix="export it with opset_version=17 or lower, or convert the PyTorch model itself",
        ) from error
    for doubt in sorted({str(each.message) for each in doubts if each.category is UserWarning}):
        warnings.warn(f"{path}: {doubt}", UserWarning, stacklevel=2)
    batch, shape = _first_input(model)
    network = _written(graph, str(path.absolute()), types, guessed, batch)
    if shape:
        set_model_info(network, ModelInfo(inputs=InputSpec(shape)))
    return network


def _constants_to_initializers(graph: Any) -> None:
    """Nodes of type Constant become stored tensors: onnx2torch reads settings of operators only from those."""
    import numpy as np
    from onnx import helper, numpy_helper

    kept = []
    for node in graph.node:
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        name = next(iter(given), "")
        if node.op_type != "Constant" or name in ("sparse_value", "value_string", "value_strings", ""):
            kept.append(node)
            continue
        dtype = np.float32 if "float" in name else np.int64
        tensor = given[name] if name == "value" else numpy_helper.from_array(np.asarray(given[name], dtype))
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _unknown(model: Any, path: Path) -> list[UnsupportedOperator]:
    """All operators that onnx2torch has no converter for."""
    from onnx2torch.node_converters import get_converter

    versions = {entry.domain: entry.version for entry in model.opset_import}
    found = []
    for node in model.graph.node:
        version = versions.get(node.domain, 1)
        try:
            get_converter(node.op_type, version, node.domain)
        except (NotImplementedError, ValueError):  # a domain of somebody's own
            operator = f"{node.domain}.{node.op_type}".lstrip(".")
            reason = f"onnx2torch cannot import it at opset {version}"
            fix = "export the model with another opset_version, or convert the PyTorch model itself"
            found.append(UnsupportedOperator(node.name or node.output[0], operator, str(path), reason, fix))
    return found


def _importable(model: Any, path: Path) -> Any:
    """The model, at an older opset if that is what it takes.

    Raises:
        ConversionError: one error for all operators that cannot be imported.
    """
    from onnx import version_converter

    found = _unknown(model, path)
    if found and any(entry.domain == "" and entry.version > _OPSET for entry in model.opset_import):
        try:
            older = version_converter.convert_version(model, _OPSET)
        except RuntimeError:  # an operator means something else there
            older = model
        if not _unknown(older, path):
            return older
    if found:
        raise ConversionError(found)
    return model


def _with_ranks(model: Any) -> tuple[Any, set[str]]:
    """The model with the number of dimensions of what onnx2torch pools and normalises, where ONNX infers none.

    A pooling says it itself; of BatchNorm onnx2torch only needs some number, and the nodes where it is a guess are
    returned.
    """
    from onnx import TensorProto, helper, shape_inference

    model = shape_inference.infer_shapes(model, data_prop=True)
    values = model.graph.value_info
    guessed: set[str] = set()
    known = {value.name for value in (*values, *model.graph.input) if value.type.tensor_type.HasField("shape")}
    for node in model.graph.node:
        windows = [len(entry.ints) for entry in node.attribute if entry.name == "kernel_shape"]
        if node.op_type not in ("BatchNormalization", "MaxPool", "AveragePool") or node.input[0] in known:
            continue
        if not windows:
            guessed.add(node.name)
        for index in reversed(range(len(values))):
            if values[index].name == node.input[0]:
                del values[index]
        sizes = [None] * (2 + (windows[0] if windows else 2))
        values.append(helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, sizes))
    return model, guessed


def _named_by_number(graph: Any) -> dict[str, tuple[str, str]]:
    """Gives nodes names that onnx2torch can use for modules; the node's own name and its operator by the new name."""
    types = {}
    for number, node in enumerate(graph.node):
        name = f"node_{number}"
        types[name] = (node.name or node.output[0], node.op_type)
        node.name = name
    return types


def _first_input(model: Any) -> tuple[int | None, tuple[int, ...]]:
    """The fixed number of samples, if any, and the shape of one sample, if it is known and there is one input."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if not inputs or not inputs[0].type.tensor_type.shape.dim:
        return None, ()
    sizes = [size.dim_value if size.dim_value > 0 else None for size in inputs[0].type.tensor_type.shape.dim]
    known = tuple(size for size in sizes[1:] if size is not None)
    return sizes[0], known if len(inputs) == 1 and len(known) == len(sizes) - 1 else ()


def _written(
    graph: fx.GraphModule, file: str, types: dict[str, tuple[str, str]], guessed: set[str], batch: int | None
) -> OnnxNetwork:
    """A graph of onnx2torch as a module whose forward is one line per operator."""
    names = _Names()
    varying = _varying(graph, types)
    words: dict[fx.Node, str] = {}
    modules: dict[str, nn.Module] = {}
    constants: dict[str, Tensor] = {}

    def word(value: Any, operator: str = "", place: int = 0, on_samples: bool = False) -> str:
        if isinstance(value, tuple | list):
            return f"({''.join(word(entry) + ', ' for entry in value)})"
        if not isinstance(value, fx.Node):
            return repr(value)
        if value.op == "get_attr":
            home, _, key = str(value.target).rpartition(".")
            tensor = graph.get_submodule(home).get_buffer(key)
            if _is_number(tensor, operator, place, on_samples):
                return repr(tensor.item() if operator in _ARITHMETIC and tensor.numel() == 1 else tensor.tolist())
            constants[key] = tensor
            return f"self.{key}"
        return words[value]

    body = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            words[node] = names.of(node.name)
        elif node.op == "output":
            body.append(f"    return {word(node.args[0])}\n")
        elif node.op == "call_function":  # one of several results
            words[node] = names.of(node.name)
            body.append(f"    {words[node]} = {word(node.args[0])}[{node.args[1]}]\n")
        elif node.op == "call_module":
            own, operator = types[_key(node)]
            on_samples = any(source in varying for source in node.all_input_nodes)
            module = graph.get_submodule(str(node.target))
            if isinstance(module, nn.LayerNorm) and module.weight is not None:
                module.normalized_shape = tuple(module.weight.shape)  # of sizes that the file leaves open it has none
            if not type(module).__module__.startswith("torch.") or _key(node) in guessed:
                module = OnnxOperator(module, operator, own, file, batch, on_samples)
            name = names.of(own)
            modules[name] = module
            words[node] = names.of(f"{name}_out")
            given = [word(value, operator, place, on_samples) for place, value in enumerate(node.args)]
            given += [f"{key}={word(value, operator, 1, on_samples)}" for key, value in node.kwargs.items()]
            body.append(f"    {words[node]} = self.{name}({', '.join(given)})  # {own!r}: {operator}\n")
    inputs = [words[node] for node in graph.graph.nodes if node.op == "placeholder"]
    return OnnxNetwork(file, f"def forward({', '.join(['self', *inputs])}):\n" + "".join(body), modules, constants)


def _key(node: fx.Node) -> str:
    """The name of a node without its domain."""
    return str(node.target).rpartition("/")[2]


def _varying(graph: fx.GraphModule, types: dict[str, tuple[str, str]]) -> set[fx.Node]:
    """What depends on the samples, not only on their shape."""
    found: set[fx.Node] = set()
    for node in graph.graph.nodes:
        shape = node.op == "call_module" and types[_key(node)][1] in ("Shape", "Size")
        if node.op == "placeholder" or (not shape and any(source in found for source in node.all_input_nodes)):
            found.add(node)
    return found


def _is_number(tensor: Tensor, operator: str, place: int, on_samples: bool) -> bool:
    """Whether a stored tensor is written into the code: axes, sizes, and factors of everything."""
    if tensor.dim() > 1 or tensor.numel() > LONGEST:
        return False
    if operator in _ARITHMETIC and on_samples and tensor.numel() == 1:
        return bool(tensor.isfinite())
    return tensor.dtype in (torch.int64, torch.int32) or (operator in _NUMBERS and place > 0)


class _Names:
    """Python names for nodes of the file, each given once."""

    def __init__(self) -> None:
        self._taken = {*dir(nn.Module()), *keyword.kwlist, "file", "code", "initializers", "inf", "nan"}

    def of(self, name: str) -> str:
        """A name like this one."""
        plain = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "node"
        plain = f"n{plain}" if plain[0].isdigit() else plain
        found = plain
        for number in itertools.count(2):
            if found not in self._taken:
                break
            found = f"{plain}_{number}"
        self._taken.add(found)
        return found
