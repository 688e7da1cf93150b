"""The ANN in int8 under ONNX Runtime: what else the same cores could run. Used by engine.py.

    pip install -e '.[bench]'

Static post-training quantisation in QDQ form: int8 weights per channel, uint8 activations from the smallest and largest
values on unlabelled training images. BatchNorm is folded before. A staircase of a trained activation (QCFS, SlipReLU)
would stay in float32 between the integer operators, so ``clip(z, 0, theta)`` stands for it, which ONNX Runtime folds
into the quantisation; the accuracy is that of the clipped network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, fx, nn

import transpike as tp
from transpike.bench.compare import relu_network

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Quantised:
    """One ANN in three forms.

    Attributes:
        clipped: torch, float32, with the activations that were exported.
        single: ONNX Runtime, float32.
        integer: ONNX Runtime, int8.
    """

    clipped: Call
    single: Call
    integer: Call


class _Images(quantization.CalibrationDataReader):
    def __init__(self, name: str, images: Tensor) -> None:
        self.batches = iter([{name: part.numpy()} for part in torch.split(images, 50)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def quantise(snn: tp.SpikingNetwork, calibration: Tensor) -> Quantised:
    """Exports, quantises and loads the ANN of a converted network.

    Args:
        snn: a network of images.
        calibration: a few hundred training images ``[N, C, H, W]``.
    """
    network = exported_network(snn)
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, integer = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "ready", "int8"))
        with torch.no_grad():
            batch = torch.export.Dim("batch", min=1, max=1 << 16)
            program = torch.onnx.export(
                network, (calibration[:2],), dynamo=True, dynamic_shapes=({0: batch},), opset_version=18, verbose=False
            )
            assert program is not None
        program.save(plain)
        quant_pre_process(plain, ready, skip_symbolic_shape=True)
        quantization.quantize_static(
            ready,
            integer,
            _Images(_session(ready).get_inputs()[0].name, calibration),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
        )
        return Quantised(network, _call(_session(plain)), _call(_session(integer)))


def exported_network(snn: tp.SpikingNetwork) -> fx.GraphModule:
    """The source network's graph: ReLU and clipped ReLU as they are, ``clip(z, 0, theta)`` for a trained staircase."""
    network = relu_network(snn)
    for plan in snn.sites:
        site = snn.site(plan.name)
        ceiling = float(site.theta) if site.trained else site.ceiling
        if ceiling is not None:
            parent, _, leaf = plan.name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.Hardtanh(0.0, ceiling))
    return network


def _session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its threads would wait in a loop for milliseconds after a call, on the cores of whoever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _call(session: ort.InferenceSession) -> Call:
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
