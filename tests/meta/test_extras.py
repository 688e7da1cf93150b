"""Optional libraries: the core works without them, and what needs one says which extra brings it."""

from __future__ import annotations

import subprocess
import sys

import pytest

OPTIONAL = (
    *("lightning", "torchmetrics", "sklearn", "matplotlib", "plotly", "pandas", "torchvision", "PIL", "timm"),
    *("ray", "optuna"),
)
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # importing these fails as if they were not there
import torch, transpike as tp
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_converts_evaluates_and_saves_without_any(tmp_path):
    out = run(f"""
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
x = torch.rand(16, 4)
snn = tp.convert(model, tp.methods["accumulate"](steps=4), calibration=x, example_inputs=x)
report = tp.evaluate(snn, [(x, model(x).argmax(1))], steps=4)
file = {str(tmp_path / "n.safetensors")!r}
tp.save(snn, file)
print(report.row(4).top1 > 50, torch.equal(tp.load(file, model=model)(x, steps=4), snn(x, steps=4)))
""")
    assert out.split() == ["True", "True"]


@pytest.mark.parametrize(
    ("call", "extra"),
    [
        ("tp.data.load_data('digits', None)", "vision"),
        ("tp.fit(tp.zoo.build('digits-resnet'), tp.data.Data(None, [], [], [], []), epochs=1)", "train"),
        (
            "from transpike import experiments as e; e.run_sweep(e.Sweep('digits', ('x',), (1,), (0.5,)), None)",
            "sweep",
        ),
    ],
)
def test_what_needs_one_names_the_extra(call, extra):
    out = run(f"""
try:
    {call}
except tp.errors.MissingExtraError as error:
    print(error)
""")
    assert "is not installed" in out
    assert f'pip install "transpike[{extra}]"' in out
