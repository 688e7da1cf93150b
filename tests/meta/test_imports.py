"""Imports point one way: what DESIGN section 4 says about the rooms, read from the source with ``ast``."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import transpike

ROOT = Path(transpike.__file__).parent

# A room may import the rooms of earlier groups.
GROUPS = [
    ["errors", "functional"],
    ["serialization"],
    ["activations", "kernels"],
    ["neurons"],
    ["schedules"],
    ["graph"],
    ["runtime"],
    ["engine", "rules"],
    ["calibration", "network"],
    ["conversion"],
    ["data", "architectures", "evaluation"],
    ["bench", "selection", "storage", "training"],
    ["zoo"],
    ["testing"],
    ["experiments", "interop"],
    ["report"],
    ["cli"],
]
ALLOWED = {
    room: {earlier for group in GROUPS[:level] for earlier in group}
    for level, rooms in enumerate(GROUPS)
    for room in rooms
}

FILES = sorted(ROOT.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def _imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, inside functions and type-checking blocks too.

    Names that an import binds to the package and reads further (``transpike.cli.main``), and names given to
    ``import_module`` or ``__import__`` as text count as imports.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found, bound = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            bound |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names if alias.asname}
            bound |= {name: name for alias in node.names if not alias.asname for name in [alias.name.split(".")[0]]}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in bound:
                found.add(f"{bound[first]}.{rest}")
    return found


def _rooms_imported(path: Path) -> set[str]:
    names = [name.split(".") for name in _imports(path)]
    return {name[1] for name in names if name[0] == "transpike" and len(name) > 1} - {_room(path), "__version__"}


def test_every_room_is_in_the_order():
    rooms = {_room(path) for path in FILES} - {"__init__", "py"}
    assert rooms <= set(ALLOWED), f"put {sorted(rooms - set(ALLOWED))} into GROUPS"
    assert {"errors", "functional", "activations", "kernels", "neurons", "schedules", "graph", "rules"} <= rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    if _room(path) == "__init__":
        return
    wrong = _rooms_imported(path) - ALLOWED[_room(path)]
    assert not wrong, f"{path.relative_to(ROOT)} must not import {sorted(wrong)}"


PLANTED = {
    "from transpike.rules.thresholds.maximum import Maximum": "rules",
    "def f():\n    import transpike.cli": "cli",
    "import transpike as tp\ntp.conversion.methods.METHODS": "conversion",
    "import transpike\nif 1:\n    transpike.storage.checkpoint.save": "storage",
    "import importlib\nimportlib.import_module('transpike.bench.compare')": "bench",
    "__import__('transpike.training')": "training",
}


@pytest.mark.parametrize("code", PLANTED)
def test_a_planted_import_is_found(tmp_path, code):
    path = tmp_path / "planted.py"
    path.write_text(code)
    assert PLANTED[code] in {name.split(".")[1] for name in _imports(path) if name.startswith("transpike.")}
    assert PLANTED[code] not in ALLOWED["graph"]
    assert "graph" not in ALLOWED["kernels"]


def test_kernels_know_no_module_and_no_graph():
    for path in (ROOT / "kernels").glob("*.py"):
        assert not any(name.startswith(("torch.fx", "torch.nn")) for name in _imports(path)), path
        names = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
        assert "Module" not in names, path


def test_graph_knows_no_method_and_no_particular_schedule_by_name():
    from transpike import rules, schedules

    known = {name for name in (*rules.__all__, "Plain") if name not in ("Part", "Statistic")}
    assert {"Maximum", "Percentile", "HalfThreshold"} <= known
    assert schedules.Plain
    for path in (ROOT / "graph").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not used & known, path


_SEQUENCES = re.compile(r"(^|_)(drives?|events|spikes)$")
_COUNTS = re.compile(r"(^|_)(steps|length|T)$")
_STREAMS = {"evaluation/early_exit.py"}
"""Files that advance a whole network by its own ``step``, and no neuron."""


def _loops_over_time(tree: ast.AST) -> list[str]:
    """Loops over a sequence in time: directly, by ``zip`` and the like, by its length, or by a number of steps."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.While):
            where = node.test
        elif isinstance(node, ast.For | ast.comprehension):
            where = node.iter
        else:
            continue
        counts = isinstance(node, ast.While) or "range" in {n.id for n in ast.walk(where) if isinstance(n, ast.Name)}
        of_dicts = {
            id(part.value)
            for part in ast.walk(where)
            if isinstance(part, ast.Attribute) and part.attr in ("items", "values", "keys")
        }
        for part in ast.walk(where):
            name = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
            if (_SEQUENCES.search(name) and id(part) not in of_dicts) or (counts and _COUNTS.search(name)):
                found.append(f"line {where.lineno}: {ast.unparse(where)}")
                break
    return found


def test_only_kernels_loop_over_time():
    """A loop over the first dimension of a drive outside of ``kernels`` would be a second specification."""
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"kernels", "cli", "report", "testing"}
    for room in rooms:
        for path in (ROOT / room).rglob("*.py"):
            if str(path.relative_to(ROOT)) not in _STREAMS:
                found = _loops_over_time(ast.parse(path.read_text(encoding="utf-8")))
                assert not [loop for loop in found if "bit_length" not in loop], f"{path}: loops over time: {found}"


@pytest.mark.parametrize(
    "code",
    [
        "for current in drive: v += current",
        "for t in range(drive.shape[0]): v += drive[t]",
        "for t in range(len(site_drive)): pass",
        "for t in range(1, steps + 1): v = step(v)",
        "for d, e in zip(drive, wanted): pass",
        "for t, e in enumerate(events): pass",
        "x = [f(s) for s in reversed(spikes)]",
        "for e in events.unbind(0): pass",
        "while t < steps: t += 1",
        "for t in range(self.steps): pass",
    ],
)
def test_a_planted_loop_over_time_is_found(code):
    assert _loops_over_time(ast.parse(code))


def test_nothing_in_src_imports_tests_recipes_benchmarks_or_results():
    outside = {"tests", "benchmarks", "results", "conftest", "pytest", "hypothesis"}
    for path in FILES:
        wrong = {name for name in _imports(path) if name.split(".")[0] in outside}
        assert not wrong, f"{path}: {wrong}"


def test_nothing_is_ever_unpickled():
    """Neither the pickle modules' functions nor ``torch.load`` without ``weights_only=True`` are called."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called.split(".")[0] not in {"pickle", "dill", "cloudpickle", "shelve"}, f"{path}: {called}"
            if called == "torch.load":
                safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
                assert safe, f"{path}:{node.lineno}: torch.load without weights_only=True"
            assert called != "torch.save", f"{path}:{node.lineno}: torch.save writes a pickle"


HEAVY = ("lightning", "pytorch_lightning", "sklearn", "matplotlib", "nir", "ray", "plotly")


def test_importing_transpike_is_light():
    code = f"import sys, transpike; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_public_names_are_listed_once_and_exist():
    assert len(transpike.__all__) == len(set(transpike.__all__))
    assert all(getattr(transpike, name) is not None for name in transpike.__all__)


def test_test_files_have_names_of_their_own():
    """Pytest takes two files of one name in folders without ``__init__.py`` for the same module."""
    names = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert len(names) == len(set(names))
