"""Imports point one way: what DESIGN section 4 says about the rooms, read from the source with ``ast``."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import transpike

ROOT = Path(transpike.__file__).parent

# A room may import the rooms of earlier groups, and in its own group those that WITHIN names.
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
    ["data", "zoo", "evaluation"],
    ["bench", "selection", "storage", "training"],
    ["testing"],
    ["experiments", "interop"],
    ["report"],
    ["cli"],
]
WITHIN = {"zoo": {"data"}}
ALLOWED = {
    room: {earlier for group in GROUPS[:level] for earlier in group} | WITHIN.get(room, set())
    for level, rooms in enumerate(GROUPS)
    for room in rooms
}

FILES = sorted(ROOT.rglob("*.py"))


def _room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def _imports(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, inside functions and type-checking blocks too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
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


def test_the_rule_itself_finds_a_wrong_import(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from transpike.rules.thresholds.maximum import Maximum\n    import transpike.cli\n")
    assert {name.split(".")[1] for name in _imports(path)} == {"rules", "cli"}
    assert "rules" not in ALLOWED["graph"]
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


def test_only_kernels_loop_over_time():
    """A loop over the first dimension of a drive outside of ``kernels`` would be a second specification."""
    for room in ("neurons", "schedules", "graph", "rules"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.For | ast.comprehension):
                    names = {n.id for n in ast.walk(node.iter) if isinstance(n, ast.Name)}
                    assert not names & {"drive", "steps"}, f"{path}: loops over {ast.unparse(node.iter)}"


def test_nothing_in_src_imports_tests_recipes_benchmarks_or_results():
    for path in FILES:
        roots = {name.split(".")[0] for name in _imports(path)}
        assert not roots & {"tests", "recipes", "benchmarks", "results", "conftest", "pytest", "hypothesis"}, path


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
