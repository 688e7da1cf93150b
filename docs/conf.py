"""Sphinx settings. Build: make docs, or python -m sphinx -W --keep-going -b html docs docs/_build/html."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).resolve().parent))

import figures
import tables

import transpike

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the notebooks: their networks are too small to share

HERE = Path(__file__).resolve().parent

project = "transpike"
author = "The transpike developers"
copyright = "The transpike developers"
version = release = transpike.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_generated", "jupyter_execute"]
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme = "furo"
html_title = "transpike"
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e99", "color-brand-content": "#0b6e99"},
    "dark_css_variables": {"color-brand-primary": "#5cc1ee", "color-brand-content": "#5cc1ee"},
}

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

default_role = "py:obj"
autosummary_generate = False  # the stubs of included lists are written by write_reference
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
copybutton_exclude = ".linenos, .gp, .go"

GENERATED = HERE / "_generated"
NAMESPACES = ("", "activations", "rules", "neurons", "schedules", "errors", "data", "zoo", "interop")


class Picture(SphinxDirective):
    """``{picture} NAME``: the figure for light and for dark pages; the body is the caption, ``:alt:`` is needed."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required, "width": directives.length_or_percentage_or_unitless}

    def run(self) -> list[nodes.Node]:
        figure = nodes.figure(classes=["picture"])
        for kind in figures.THEMES:
            image = nodes.image(
                uri=f"/_generated/{self.arguments[0]}-{kind}.svg", alt=self.options["alt"], classes=[f"only-{kind}"]
            )
            if "width" in self.options:
                image["width"] = self.options["width"]
            figure += image
        if self.content:
            caption = nodes.caption()
            holder = nodes.Element()
            self.state.nested_parse(self.content, self.content_offset, holder)
            caption += holder[0].children
            figure += caption
        return [figure]


def public_names(namespace: str) -> list[str]:
    """What a namespace exports, namespaces and tables left out."""
    module = importlib.import_module(f"transpike.{namespace}".rstrip("."))
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name, made in vars(module).items() if getattr(made, "__module__", "") == module.__name__]
    return sorted(
        name for name in names if inspect.isclass(found := getattr(module, name)) or inspect.isfunction(found)
    )


def public_values(namespace: str) -> list[str]:
    """Tables and constants that a namespace exports."""
    module = importlib.import_module(f"transpike.{namespace}".rstrip("."))
    return sorted(
        name for name in getattr(module, "__all__", ()) if not callable(getattr(module, name)) and name.isupper()
    )


def write_reference(folder: Path) -> None:
    """One list of public names per namespace for the pages in `api/`, and a page for every name."""
    stubs: dict[str, str] = {}
    seen: set[int] = set()
    for namespace in NAMESPACES:
        module = f"transpike.{namespace}".rstrip(".")
        lines = ["```{eval-rst}", f".. currentmodule:: {module}", ""]
        classes = [n for n in public_names(namespace) if inspect.isclass(getattr(importlib.import_module(module), n))]
        functions = [n for n in public_names(namespace) if n not in classes]
        for title, names in (("Functions", functions), ("Classes", classes)):
            if names:
                lines += [
                    f".. rubric:: {title}",
                    "",
                    ".. autosummary::",
                    "   :toctree: generated",
                    "   :nosignatures:",
                    "",
                ]
                lines += [f"   {name}" for name in names] + [""]
        for name in classes + functions:
            made = getattr(importlib.import_module(module), name)
            members = "\n   :members:\n   :show-inheritance:" if name in classes else ""
            members += "\n   :no-index:" if id(made) in seen else ""
            seen.add(id(made))
            kind = "class" if name in classes else "function"
            stubs[f"{module}.{name}"] = (
                f"{name}\n{'=' * len(name)}\n\n.. currentmodule:: {module}\n\n.. auto{kind}:: {name}{members}\n"
            )
        for name in public_values(namespace):
            lines += [f".. py:data:: {module}.{name}", "   :no-index:", "", f"   {_about_value(module, name)}", ""]
        lines += ["```", ""]
        _write(folder / f"api-{namespace or 'transpike'}.md", "\n".join(lines))
    pages = HERE / "api" / "generated"
    pages.mkdir(exist_ok=True)
    for old in pages.glob("*.rst"):
        if old.stem not in stubs:
            old.unlink()
    for name, text in stubs.items():
        _write(pages / f"{name}.rst", text)


def _write(file: Path, text: str) -> None:
    """What has not changed keeps its time, so that Sphinx does not read it again."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def _about_value(module: str, name: str) -> str:
    found = getattr(importlib.import_module(module), name)
    return f"By name: {', '.join(found)}." if hasattr(found, "keys") else f"``{found!r}``"


def escape_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """``|x|`` in a docstring is a magnitude, not a substitution of reStructuredText."""
    lines[:] = [re.sub(r"(?<![`\\])\|(\w+)\|", r"\\|\1\\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Writes what pages include before they are read."""
    figures.write_all(GENERATED)
    tables.write_all(GENERATED)
    write_reference(GENERATED)
    app.add_directive("picture", Picture)
    app.connect("autodoc-process-docstring", escape_bars)
