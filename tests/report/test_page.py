"""The page of a study: its text, and what headless Chromium makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike.experiments.study import Study, StudySettings, study_network
from transpike.report import (
    chart_figure,
    study_charts,
    study_figures,
    study_frames,
    study_page,
    study_tables,
    write_page,
)
from transpike.report.chart_figures import plotly_figure
from transpike.report.page import cell
from transpike.schedules import OffsetSpike, Plain, Staggered

pytest.importorskip("plotly")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
SCRIPT = "<script>document.documentElement.dataset.broken = 'yes'</script>"


@pytest.fixture(scope="module")
def study() -> Study:
    pytest.importorskip("sklearn")
    data = tp.data.digits()
    torch.manual_seed(0)
    ann = tp.tailor(tp.zoo.build("digits-resnet", width=2, blocks=1), tp.activations.QCFS(4, theta_init=2.0)).eval()
    snn = tp.convert(ann, example_inputs=torch.stack([data.test[index][0] for index in range(4)]))
    schedules = {"plain": Plain(), "cos": OffsetSpike(2), "late": Staggered(1)}
    settings = StudySettings(steps=3, images="30", detail_images=20, counted_images=10, probe_steps=2, examples=4)
    return study_network(snn, data, schedules, settings, at={"late": (3,)}, origin=["transpike report net"])


@pytest.fixture(scope="module")
def hostile(study: Study) -> Study:
    """Names that are markup."""
    classes = (SCRIPT, *study.classes[1:])
    return replace(study, name=SCRIPT, classes=classes, origin=("</pre>" + SCRIPT, "</script>" + SCRIPT))


class Page(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_nothing_is_fetched(study: Study) -> None:
    page = Page(study_page(study))
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "poster", "data", "action", "background"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        if tag != "a":
            assert (attributes.get("href") or "data:").startswith("data:"), (tag, attributes)
    (policy,) = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    style = (Path(tp.__file__).parent / "report" / "page_files" / "page.css").read_text()
    assert not re.search(r"url\(|@import|https?:", style)


def test_size_and_structure(study: Study, tmp_path: Path) -> None:
    write_page(study, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 5_000_000
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.of("html") == [{"lang": "en"}]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [str(each["href"])[1:] for each in page.of("a") if str(each["href"]).startswith("#")]
    assert set(anchors) <= set(ids)
    assert {name for _, each in page.elements for name in (each.get("aria-labelledby") or "").split()} <= set(ids)
    assert {each["for"] for each in page.of("label")} <= set(ids)
    assert all(each.get("alt") for each in page.of("img"))
    assert len(page.of("h1")) == len(page.of("main")) == len(page.of("nav")) == len(page.of("noscript")) == 1
    assert len(page.of("canvas")) == 1
    assert [each["id"] for each in page.of("section")] == [
        *("summary", "accuracy", "rates", "causes", "offsets", "raster", "examples", "cost", "reproduce")
    ]


def test_a_page_says_what_the_study_holds(study: Study) -> None:
    text = study_page(study)
    last = study.report.rows[-1]
    for part in (
        f"{last.top1:.2f} %",
        study.network_digest,
        study.data_digest,
        "transpike report net",
        "0.9 pJ per AC",
    ):
        assert part in text
    without = study_page(replace(study, offsets={}, no_offsets="no & <such> thing", origin=()))
    assert "Not defined here: no &amp; &lt;such&gt; thing." in without
    assert "plot-offsets" not in without


def test_equal_studies_give_equal_pages(study: Study) -> None:
    assert study_page(study) == study_page(replace(study))


def test_markup_in_names_stays_text(hostile: Study) -> None:
    text = study_page(hostile)
    assert SCRIPT not in text
    assert len(Page(text).of("script")) == 3


def test_tables(study: Study) -> None:
    tables = study_tables(study)
    rows = {(row["schedule"], row["T"]): row for row in tables["accuracy"]}
    assert set(rows) == {*((label, t) for label in ("plain", "cos") for t in (1, 2, 3)), ("late", 3)}
    assert [(row["schedule"], row["T"]) for row in tables["schedules"]] == [("plain", 3), ("cos", 3), ("late", 3)]
    late = study.reports["late"].rows[0]
    assert rows["late", 3]["pipeline"] == late.latency.pipeline_steps
    assert rows["late", 3]["to ANN"] == late.top1 - study.report.ann_top1
    ann, first = tables["operations"][:2]
    assert ann["µJ, AC/MAC, 45 nm"] == pytest.approx(4.6e-6 * study.ann_operations.dense)
    operations = study.operations[0].operations
    wanted = 1e-6 * (0.9 * operations.effective_acs + 4.6 * operations.effective_macs)
    assert first["µJ, AC/MAC, 45 nm"] == pytest.approx(wanted)
    assert first["of the ANN's, AC/MAC, 45 nm"] == pytest.approx(wanted / (4.6e-6 * study.ann_operations.dense))
    assert len(tables["offsets"]) == 2 * len(study.causes.sites)
    offsets = tables["offsets"][0]
    assert sum(offsets[key] for key in ("-2", "-1", "0", "+1", "+2")) == sum(study.offsets["plain"].sites[0].counts)
    for name, found in tables.items():
        assert len({tuple(row) for row in found}) <= 1, name


def test_frames_and_figures(study: Study) -> None:
    pytest.importorskip("pandas")
    frames = study_frames(study)
    assert (
        frames["accuracy"].query("schedule == 'cos' and T == 2")["top-1 %"].item() == study.reports["cos"].row(2).top1
    )
    figures = study_figures(study)
    assert set(figures) == set(study_charts(study))
    lines = {line.get_label(): line for line in figures["accuracy"].axes[0].lines}
    assert list(lines["cos"].get_ydata()) == [row.top1 for row in study.reports["cos"].rows]
    assert "ANN" in " ".join(lines)
    causes = study_charts(study)["causes"].views[""]
    patches = figures["causes"].axes[0].patches
    sites = len(study.causes.sites)
    for position in range(sites):  # bars stand on each other
        tops = [patch.get_y() + patch.get_height() for patch in patches[position::sites]]
        sums = [sum(each.y[position] for each in causes[: number + 1]) for number in range(5)]
        assert tops == pytest.approx(sums)
    last = study_charts(study)["offsets"]
    figure = chart_figure(last, list(last.views)[-1])
    assert sum(patch.get_height() for patch in figure.axes[0].patches) == pytest.approx(200)
    with pytest.raises(KeyError):
        chart_figure(last, "nowhere")


def test_plotly_takes_every_chart(study: Study) -> None:
    from plotly.graph_objects import Figure

    for chart in study_charts(replace(study, rows={"one": study.report})).values():
        made = plotly_figure(chart)
        for traces in made["views"].values():
            Figure(traces, made["layout"])  # raises at what Plotly does not know


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "-"), (True, "yes"), (1234567, "1,234,567"), (1234.5, "1,234"), (12.345, "12.35"), (0.0, "0.00")),
        *((0.01234, "0.0123"), (-3.0, "-3.00"), ("a", "a")),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


PROBE = """
<pre id="probe"></pre>
<script>
const problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => problems.push("refused " + event.blockedURI));
const wait = setInterval(() => {
  if (!document.documentElement.dataset.ready) return;
  clearInterval(wait);
  const byId = (id) => document.getElementById(id);
  const found = { theme: document.documentElement.dataset.theme, steps: [] };
  const now = () => Number(byId("step").value);
  const key = (name) => {
    byId("stepper").dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
    found.steps.push(now());
  };
  ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End", "x"].forEach(key);
  byId("previous").click();
  found.steps.push(now());
  byId("step").value = 1;
  byId("step").dispatchEvent(new Event("input"));
  found.first = byId("now").textContent;
  byId("site").value = "1";
  byId("site").dispatchEvent(new Event("change"));
  found.second = byId("map").getAttribute("aria-label");
  byId("view-offsets").selectedIndex = 1;
  byId("view-offsets").dispatchEvent(new Event("change"));
  found.offsets = byId("plot-offsets").data.map((trace) => trace.y);
  const line = () => byId("plot-accuracy").data[0].line.color;
  const before = line();
  byId("theme").click();
  found.changed = [document.documentElement.dataset.theme, before !== line()];
  found.plots = [...document.querySelectorAll(".plot")].map((plot) => [plot.id, !!plot.querySelector(".main-svg")]);
  found.inner = innerWidth;
  found.wide = document.documentElement.scrollWidth - innerWidth;
  found.broken = document.documentElement.dataset.broken || "no";
  found.ready = document.documentElement.dataset.ready;
  found.fetched = performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 40));
  found.problems = problems;
  byId("probe").textContent = JSON.stringify(found);
}, 50);
</script>
"""

FRAME = """
<pre id="probe"></pre>
<script>
const frame = document.getElementById("frame");
frame.srcdoc = PAGE;
const copy = setInterval(() => {
  const inside = frame.contentDocument && frame.contentDocument.getElementById("probe");
  if (!inside || !inside.textContent) return;
  clearInterval(copy);
  document.getElementById("probe").textContent = inside.textContent;
}, 50);
</script>
"""


def browse(page: Path, *switches: str, hash: str = "") -> tuple[str, str, list[str]]:
    """The document after it ran, what the console said, and the addresses that were asked for."""
    assert CHROMIUM is not None
    log = page.with_suffix(".log")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
            *("--virtual-time-budget=20000", f"--user-data-dir={page.parent / 'chrome'}", f"--log-net-log={log}"),
            *("--disable-background-networking", "--disable-component-update", "--no-first-run", *switches),
            page.as_uri() + hash,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    asked = re.findall(r'"initiator":"([^"]*)".*?"url":"([^"]*)"', log.read_text(errors="replace"))
    addresses = [url for initiator, url in asked if initiator != "not an origin"]  # that is the browser itself
    return done.stdout, console, addresses


def probed(text: str, folder: Path, *switches: str, hash: str = "", width: int | None = None) -> dict[str, object]:
    """What the probe found in a copy of the page; the copy's policy lets its own script run.

    Chromium opens no window of less than 500 pixels, so narrower pages stand in a frame.
    """
    text = re.sub(r"script-src [^;]*;", "script-src 'unsafe-inline';", text, count=1).replace(
        "</body>", PROBE + "</body>"
    )
    if width is not None:
        page = json.dumps(text).replace("<", "\\u003c")
        text = f"<iframe id=frame width={width} height=800 style='border:0'></iframe>{FRAME.replace('PAGE', page)}"
    (folder / "probed.html").write_text(text, encoding="utf-8")
    dom, _, _ = browse(folder / "probed.html", *switches, hash=hash)
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    read: dict[str, object] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return read


@needs_chromium
def test_the_page_draws_itself_without_any_request(study: Study, tmp_path: Path) -> None:
    write_page(study, tmp_path / "page.html")
    dom, console, addresses = browse(tmp_path / "page.html")
    assert 'data-ready="yes"' in dom
    assert "Refused" not in console
    assert "Error" not in console
    assert addresses == []
    charts = len(study_charts(study)) + 2  # the raster and the answers
    assert len(re.findall(r'<svg class="main-svg"[^>]*>', dom)) >= charts


@needs_chromium
def test_a_request_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<!DOCTYPE html><img src='http://example.invalid/picture.png' alt=''>")
    assert browse(tmp_path / "page.html")[2] == ["http://example.invalid/picture.png"]


@needs_chromium
def test_the_page_is_used_by_keyboard_and_buttons(study: Study, tmp_path: Path) -> None:
    found = probed(study_page(study), tmp_path, "--window-size=1280,900", hash="#light")
    assert found["ready"] == "yes"
    assert found["problems"] == []
    assert found["fetched"] == []
    assert found["steps"] == [2, 3, 3, 2, 1, 3, 3, 2]
    site, other = study.events.sites[:2]
    answer = study.events.answers[0]
    named = study.class_name(answer.index(max(answer)))
    wanted = f"Step 1 of 3: {site.totals[0]:,} events in {site.neurons:,} neurons. Answer after T = 1: {named} ("
    assert str(found["first"]).startswith(wanted)
    assert str(found["second"]).startswith(f"{other.site}. Step 1 of 3: {other.totals[0]:,} events in")
    counts = [offsets.sites[0].counts for offsets in study.offsets.values()]
    shares = [[100 * count / sum(row) for count in row] for row in counts]
    assert found["offsets"] == [pytest.approx(row, abs=1e-4) for row in shares]
    assert found["theme"] == "light"
    assert found["changed"] == ["dark", True]
    plots = dict(found["plots"])  # type: ignore[call-overload]
    assert plots == dict.fromkeys(
        [*(f"plot-{name}" for name in study_charts(study)), "plot-raster", "plot-answer"], True
    )


@needs_chromium
def test_a_narrow_dark_page_does_not_scroll_sideways(study: Study, tmp_path: Path) -> None:
    found = probed(study_page(study), tmp_path, "--blink-settings=preferredColorScheme=0", width=400)
    assert found["inner"] == 400
    assert found["theme"] == "dark"
    assert found["problems"] == []
    assert int(str(found["wide"])) <= 0


@needs_chromium
def test_the_reader_s_preference_decides(study: Study, tmp_path: Path) -> None:
    found = probed(study_page(study), tmp_path, "--blink-settings=preferredColorScheme=0")
    assert found["theme"] == "dark"


@needs_chromium
def test_markup_in_names_does_not_run(hostile: Study, tmp_path: Path) -> None:
    found = probed(study_page(hostile), tmp_path)
    assert (found["ready"], found["broken"], found["problems"]) == ("yes", "no", [])


@needs_chromium
def test_the_policy_stops_a_script_that_gets_in(study: Study, tmp_path: Path) -> None:
    text = study_page(study).replace("<main ", SCRIPT + '<img src=x onerror="alert(1)"><main ', 1)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    dom, console, _ = browse(tmp_path / "page.html")
    assert 'data-ready="yes"' in dom
    assert "data-broken" not in dom
    assert console.count("Content Security Policy") >= 2


@needs_chromium
def test_without_decompression_the_tables_stay(study: Study, tmp_path: Path) -> None:
    text = study_page(study).replace("DecompressionStream", "NoSuchStream")
    (tmp_path / "page.html").write_text(re.sub(r"script-src [^;]*;", "script-src 'unsafe-inline';", text, count=1))
    dom, _, _ = browse(tmp_path / "page.html")
    assert 'data-ready="no"' in dom
    assert "All numbers are in the tables." in dom
    assert 'id="trouble" role="status">' in dom
