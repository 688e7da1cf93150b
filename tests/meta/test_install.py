"""The built wheel and sdist work without the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from transpike.experiments.recipe import recipes
from transpike.kernels import native

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


def test_contents(built: dict[str, Path]) -> None:
    names = zipfile.ZipFile(built["wheel"]).namelist()
    for wanted in ("experiments/recipes/digits.toml", "data/cifar_test_2000.json", "py.typed", "cli/main.py"):
        assert f"transpike/{wanted}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    weights = ROOT / "src" / "transpike" / "zoo" / "weights"
    assert {f"transpike/zoo/weights/{path.name}" for path in weights.glob("*")} <= set(names)
    with tarfile.open(built["sdist"]) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "tests/conftest.py",
        "src/transpike/__init__.py",
    } <= inside


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_alone(built: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """A new environment that borrows this one's dependencies, but not this checkout."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(site), str(built[kind])], check=True)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = (
        "import transpike, transpike.experiments.recipe as r, torch;"
        "print(transpike.__file__); print(sorted(r.recipes()));"
        "m = transpike.zoo.build('digits-resnet'); x = torch.rand(2, 1, 8, 8);"
        "s = transpike.convert(m, transpike.methods['maximum'](2), calibration=x, example_inputs=x);"
        "print(tuple(s(x, steps=2).shape))"
    )
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    file, names, shape = result.stdout.splitlines()
    assert file.startswith(str(site))
    assert names == str(sorted(recipes()))
    assert shape == "(2, 2, 10)"
    if kind == "wheel":
        _check_kernels(python, tmp_path)
    module = subprocess.run(
        [python, "-m", "transpike.cli", "run", "--list"], capture_output=True, text=True, cwd=tmp_path
    )
    assert module.returncode == 0, module.stderr
    assert "digits" in module.stdout


def _check_kernels(python: Path, folder: Path) -> None:
    """Where no compiler can be found, the wheel's own kernels run, with the widest instructions of this machine."""
    here, reason = native.load()
    if here is None:
        pytest.skip(reason)
    code = "from transpike.kernels import native; m = native.module(); print(m.__file__); print(m.instruction_set())"
    result = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, cwd=folder, env={"PATH": str(python.parent)}
    )
    assert result.returncode == 0, result.stderr
    file, instruction_set = result.stdout.splitlines()
    assert Path(file).is_relative_to(python.parents[1])
    assert instruction_set == here.instruction_sets()[-1]


def test_the_compiled_kernels_are_built_where_there_is_a_compiler() -> None:
    """Without this test a build that fails would only skip the tests of the kernels."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    module, reason = native.load()
    assert module is not None, reason
