"""Trained text networks from ONNX files under signed digits, unretrained: a detector and a classifier of direction.

    pip install --no-deps rapidocr-onnxruntime     (three Apache-2.0 models of PaddleOCR come with it)
    python benchmarks/text_networks.py --output results/text-networks.json

Pages are rendered here, some for calibration, others for the measurement. The detector's text mask is compared with
that of ONNX Runtime, beside the same network with every site's values rounded to T bits.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import onnxruntime
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import transpike as tp
from transpike.graph.function_site import FunctionSite
from transpike.graph.walk import NodeVisitor
from transpike.serialization.environment import environment
from transpike.serialization.json_records import write_json

STEPS = (6, 8, 12)
SIZE, TEXT = 320, 0.3
MEAN, DEVIATION = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def page(random: np.random.Generator, fonts: list[Path]) -> Image.Image:
    """Five lines of random words in dark colours on a light one."""
    paper = Image.new("RGB", (SIZE, SIZE), tuple(int(value) for value in random.integers(180, 255, 3)))
    pen = ImageDraw.Draw(paper)
    for line in range(5):
        words = ("".join(chr(random.integers(97, 123)) for _ in range(random.integers(2, 8))) for _ in range(2))
        font = ImageFont.truetype(str(fonts[random.integers(len(fonts))]), int(random.integers(16, 34)))
        ink = tuple(int(value) for value in random.integers(0, 90, 3))
        pen.text((int(random.integers(5, 80)), 12 + 60 * line), " ".join(words), font=font, fill=ink)
    return paper


def tensor(image: Image.Image) -> Tensor:
    """``[3, H, W]`` between 0 and 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255.0


def converted(network: torch.nn.Module, steps: int, images: Tensor) -> tp.SpikingNetwork:
    """The network under T signed digits with a lag of T / 2, full scales from these images."""
    schedule = tp.schedules.SignedDigits(steps, default_lag=steps // 2)
    conversion = tp.Conversion(tp.rules.Maximum(tp.PerChannel()), schedule=schedule)
    return tp.convert(network, conversion, calibration=list(images.split(2)), example_inputs=images[:2])


def rounded(snn: tp.SpikingNetwork, images: Tensor) -> Tensor:
    """The ANN with every site's values rounded to multiples of the last digit's worth."""
    worth = snn.schedule.worths[-1]  # type: ignore[attr-defined]

    def at_site(_: str, site: Any, given: tuple[Any, ...]) -> Tensor:
        value = site(*given)
        low = -site.theta if isinstance(site, FunctionSite) else torch.zeros_like(site.theta)
        return (
            torch.round(torch.maximum(torch.minimum(value, site.theta), low) / (worth * site.theta))
            * worth
            * site.theta
        )

    return NodeVisitor(snn.network, on_site=at_site).run(images)  # type: ignore[no-any-return]


def overlap(answer: Tensor, wanted: Tensor) -> float:
    """Intersection over union of two text masks."""
    ours, theirs = answer > TEXT, wanted > TEXT
    return float((ours & theirs).sum() / (ours | theirs).sum())


def measure(name: str, network: torch.nn.Module, wanted: Tensor, images: Tensor, tests: Tensor) -> list[dict[str, Any]]:
    """One row per T."""
    rows = []
    for steps in STEPS:
        snn = converted(network, steps, images)
        with torch.no_grad():
            answer = torch.cat([snn(part, steps=steps)[-1] for part in tests.split(2)])
            plain = torch.cat([rounded(snn, part) for part in tests.split(2)])
        row: dict[str, Any] = {"network": name, "steps": steps, "pipeline_steps": snn.latency(steps).pipeline_steps}
        for label, found in (("", answer), ("_rounded", plain)):
            row[f"error{label}"] = float((found - wanted).norm() / wanted.norm())
            if wanted.dim() == 4:
                row[f"overlap{label}"] = overlap(found, wanted)
            else:
                row[f"same{label}"] = float((found.argmax(1) == wanted.argmax(1)).float().mean()) * 100
        print(row, flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=int, default=16, help="pages")
    parser.add_argument("--tests", type=int, default=8, help="pages")
    parser.add_argument("--output", type=Path, help="JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = importlib.util.find_spec("rapidocr_onnxruntime")
    assert found is not None and found.origin is not None, "pip install --no-deps rapidocr-onnxruntime"  # noqa: PT018
    folder = Path(found.origin).parent / "models"
    fonts = sorted(Path(mpl.get_data_path(), "fonts", "ttf").glob("DejaVuS*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.name]
    random = np.random.default_rng(0)
    pages = [page(random, fonts) for _ in range(given.calibration + given.tests)]
    whole = torch.stack([(tensor(each) - MEAN) / DEVIATION for each in pages])
    lines = [each.crop((0, 60 * k, 192, 60 * k + 48)).rotate(180 * (k % 2)) for each in pages for k in range(5)]
    strips = torch.stack([(tensor(each) - 0.5) / 0.5 for each in lines])
    rows = []
    for name, file, images in (
        ("text detector", "ch_PP-OCRv4_det_infer.onnx", whole),
        ("direction of text", "ch_ppocr_mobile_v2.0_cls_infer.onnx", strips),
    ):
        split = given.calibration * (len(images) // len(pages))
        session = onnxruntime.InferenceSession(str(folder / file))
        wanted = session.run(None, {session.get_inputs()[0].name: images[split:].numpy()})[0]
        network = tp.load_onnx(folder / file)
        rows += measure(name, network, torch.from_numpy(wanted), images[:split], images[split:])
    record = {"calibration": given.calibration, "tests": given.tests, "rows": rows}
    if given.output is not None:
        write_json(given.output, {"environment": asdict(environment()), **record})


if __name__ == "__main__":
    main()
