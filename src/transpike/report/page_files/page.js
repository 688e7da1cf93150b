"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  const data = JSON.parse(byId("data").textContent);
  const narrow = () => window.innerWidth < 640;
  const shown = {}; // the view of every chart
  const raster = { site: 0, step: 1, maps: [] };
  let plotly = null;

  // --- light and dark -------------------------------------------------------------------------------------------

  const preference = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // by the reader

  function isDark() {
    return chosen === null ? preference.matches : chosen === "dark";
  }

  function applyTheme() {
    root.dataset.theme = isDark() ? "dark" : "light";
    byId("theme").textContent = isDark() ? "Light" : "Dark";
    byId("theme").setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
    drawAll();
  }

  function colour(name) {
    return getComputedStyle(root).getPropertyValue("--" + name).trim();
  }

  // --- charts ---------------------------------------------------------------------------------------------------

  function coloured(trace) {
    const own = structuredClone(trace);
    const paint = colour("c" + (own.meta.colour % 9));
    own.marker = { ...own.marker, color: paint };
    if (own.line) own.line.color = paint;
    return own;
  }

  function layoutOf(own) {
    const axis = { gridcolor: colour("grid"), zerolinecolor: colour("rule"), linecolor: colour("rule") };
    const small = narrow();
    const layout = structuredClone(own);
    if (small && layout.xaxis.title && layout.xaxis.title.text.length > 45) {
      layout.xaxis.title.text = layout.xaxis.title.text.replace(/, all layers.*| that are read out.*/, "");
    }
    return {
      ...layout,
      xaxis: { ...axis, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("text"), size: small ? 11 : 13, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("faint"), font: { color: colour("text") } },
      margin: { l: 50, r: small ? 10 : 40, t: 10, b: 50 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
      modebar: { orientation: "v", bgcolor: "rgba(0,0,0,0)", color: colour("faint"), activecolor: colour("text") },
      dragmode: small ? false : "zoom",
    };
  }

  const settings = () => ({
    responsive: true,
    displaylogo: false,
    displayModeBar: narrow() ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  });

  function draw(id, traces, layout) {
    // On a narrow screen every name of the legend takes a line.
    byId(id).style.height = narrow() && traces.length > 2 ? 21 + 1.3 * traces.length + "rem" : "";
    return plotly.react(byId(id), traces, layoutOf(layout), settings());
  }

  function drawChart(chart) {
    const view = shown[chart.name] ?? Object.keys(chart.views)[0];
    return draw("plot-" + chart.name, chart.views[view].map(coloured), chart.layout);
  }

  function drawAll() {
    if (plotly !== null) data.charts.forEach(drawChart);
    showStep();
  }

  // --- one image ------------------------------------------------------------------------------------------------

  // The bits of a row of hexadecimal digits, one byte each.
  function unpack(row, size) {
    const bits = new Uint8Array(size);
    for (let i = 0; i < size; i++) bits[i] = (parseInt(row[i >> 2], 16) >> (3 - (i & 3))) & 1;
    return bits;
  }

  function siteMaps(index) {
    const site = data.events.sites[index];
    const size = site.shape.reduce((a, b) => a * b, 1);
    raster.maps[index] ??= site.rows.map((row) => unpack(row, size));
    return raster.maps[index];
  }

  // Channels beside each other, each a map of its neurons; populations without maps fill one square.
  function tiles(shape) {
    if (shape.length < 2) {
      const wide = Math.ceil(Math.sqrt(shape[0]));
      return { columns: wide, channels: shape[0], height: 1, width: 1, gap: 0 };
    }
    const height = shape.length > 2 ? shape.slice(1, -1).reduce((a, b) => a * b, 1) : 1;
    const width = shape[shape.length - 1];
    const columns = Math.max(1, Math.min(shape[0], Math.round(Math.sqrt((shape[0] * height) / width))));
    return { columns, channels: shape[0], height, width, gap: 1 };
  }

  function drawMap(site, maps) {
    const grid = tiles(site.shape);
    const rows = Math.ceil(grid.channels / grid.columns);
    const canvas = byId("map");
    const scale = Math.max(1, Math.floor(640 / (grid.columns * (grid.width + grid.gap))));
    canvas.width = (grid.columns * (grid.width + grid.gap) - grid.gap) * scale;
    canvas.height = (rows * (grid.height + grid.gap) - grid.gap) * scale;
    const pen = canvas.getContext("2d");
    const paints = [colour("none"), colour("past"), colour("now")];
    for (let i = 0; i < maps[0].length; i++) {
      const channel = Math.floor(i / (grid.height * grid.width));
      const inside = i % (grid.height * grid.width);
      const x = (channel % grid.columns) * (grid.width + grid.gap) + (inside % grid.width);
      const y = Math.floor(channel / grid.columns) * (grid.height + grid.gap) + Math.floor(inside / grid.width);
      let state = maps[raster.step - 1][i] ? 2 : 0;
      for (let t = 0; state === 0 && t < raster.step - 1; t++) state = maps[t][i];
      pen.fillStyle = paints[state];
      pen.fillRect(x * scale, y * scale, scale, scale);
    }
  }

  function drawRaster(maps) {
    const size = maps[0].length;
    const count = Math.min(size, 120);
    const neurons = Array.from({ length: count }, (_, i) => Math.floor((i * size) / count));
    const steps = maps.map((_, t) => t + 1);
    const z = neurons.map((n) => maps.map((row, t) => (row[n] ? (t + 1 === raster.step ? 2 : 1) : 0)));
    const paints = [colour("none"), colour("c0"), colour("now")];
    const scale = paints.flatMap((paint, i) => [[i / 3, paint], [(i + 1) / 3, paint]]);
    const trace = {
      type: "heatmap", x: steps, y: neurons.map((_, i) => i), z, zmin: 0, zmax: 2, colorscale: scale, showscale: false,
      xgap: 2, hovertemplate: "step %{x}<extra></extra>",
    };
    return draw("plot-raster", [trace], {
      xaxis: { title: { text: "step" }, dtick: Math.ceil(steps.length / 16), showgrid: false, zeroline: false },
      yaxis: { title: { text: "neuron" }, showgrid: false, zeroline: false, showticklabels: false, ticks: "" },
      shapes: [{
        type: "rect", x0: raster.step - 0.5, x1: raster.step + 0.5, y0: -0.5, y1: count - 0.5,
        line: { color: colour("now"), width: 2 },
      }],
    });
  }

  function softmax(values) {
    const most = Math.max(...values);
    const powers = values.map((value) => Math.exp(value - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => (100 * power) / sum);
  }

  // The classes that either network finds likely, in their own order.
  function likely() {
    const best = [...data.events.answers, data.events.ann].map(softmax);
    const order = data.events.ann.map((_, c) => c).sort((a, b) =>
      Math.max(...best.map((row) => row[b])) - Math.max(...best.map((row) => row[a])));
    return order.slice(0, 10).sort((a, b) => a - b);
  }

  const classes = likely();
  const label = (c) => data.classes[c] ?? String(c);

  function drawAnswer(row) {
    const bars = (name, values, paint) => ({
      type: "bar", name, x: classes.map(label), y: classes.map((c) => softmax(values)[c]), meta: { colour: paint },
      hovertemplate: "%{x}: %{y:.1f} %",
    });
    return draw("plot-answer", [bars("SNN", row, 0), bars("ANN", data.events.ann, 7)].map(coloured), {
      xaxis: { type: "category", automargin: true },
      yaxis: { title: { text: "softmax in %" }, range: [0, 100] },
      barmode: "group",
      showlegend: true,
    });
  }

  function showStep() {
    const site = data.events.sites[raster.site];
    const maps = siteMaps(raster.site);
    raster.step = Math.max(1, Math.min(maps.length, raster.step));
    const t = Math.min(raster.step, data.events.answers.length);
    const row = data.events.answers[t - 1];
    const answer = row.indexOf(Math.max(...row));
    const slider = byId("step");
    slider.max = maps.length;
    slider.value = raster.step;
    slider.setAttribute("aria-valuetext", "step " + raster.step + " of " + maps.length);
    const fired = site.totals[raster.step - 1].toLocaleString("en");
    const words = "Step " + raster.step + " of " + maps.length + ": " + fired + " events in " +
      site.neurons.toLocaleString("en") + " neurons. Answer after T = " + t + ": " + label(answer) +
      (answer === data.events.label ? " (right)" : " (wrong)");
    byId("now").textContent = words;
    byId("map").setAttribute("aria-label", site.site + ". " + words);
    const channels = site.kept.length, all = Math.round((site.neurons * channels) / site.shape.reduce((a, b) => a * b, 1));
    byId("kept").textContent = channels === all ? "All neurons." : channels + " evenly spaced channels of " + all + ".";
    drawMap(site, maps);
    if (plotly !== null) { drawRaster(maps); drawAnswer(row); }
  }

  function go(step) {
    raster.step = step;
    showStep();
  }

  function keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
    const length = siteMaps(raster.site).length;
    const to = { ArrowLeft: raster.step - 1, ArrowRight: raster.step + 1, Home: 1, End: length }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  }

  // --- start ----------------------------------------------------------------------------------------------------

  function fromHash() {
    if (["#dark", "#light"].includes(location.hash)) {
      chosen = location.hash.slice(1);
      applyTheme();
    }
  }

  function listen() {
    byId("theme").hidden = false;
    byId("theme").addEventListener("click", () => { chosen = isDark() ? "light" : "dark"; applyTheme(); });
    preference.addEventListener("change", applyTheme);
    window.addEventListener("hashchange", fromHash);
    let wide = !narrow();
    window.addEventListener("resize", () => { if (wide === narrow()) { wide = !narrow(); drawAll(); } });
    document.querySelectorAll("select[data-chart]").forEach((select) => select.addEventListener("change", () => {
      shown[select.dataset.chart] = select.value;
      drawChart(data.charts.find((chart) => chart.name === select.dataset.chart));
    }));
    byId("site").addEventListener("change", (event) => { raster.site = Number(event.target.value); showStep(); });
    byId("step").addEventListener("input", (event) => go(Number(event.target.value)));
    byId("first").addEventListener("click", () => go(1));
    byId("previous").addEventListener("click", () => go(raster.step - 1));
    byId("next").addEventListener("click", () => go(raster.step + 1));
    byId("last").addEventListener("click", () => go(siteMaps(raster.site).length));
    byId("stepper").addEventListener("keydown", keys);
  }

  // Plotly travels compressed; what comes out is checked by the hash in the page's policy before it runs.
  async function unpackLibrary() {
    const bytes = Uint8Array.from(atob(byId("plotly").textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    if (!window.Plotly) throw new Error("the plotting library did not start");
    return window.Plotly;
  }

  async function start() {
    listen();
    applyTheme();
    fromHash();
    try {
      plotly = await unpackLibrary();
      await Promise.all(data.charts.map(drawChart));
      showStep();
      root.dataset.ready = "yes";
    } catch (error) {
      byId("trouble").textContent = "The plots could not be drawn (" + error.message +
        "); a browser of 2023 or later is needed. All numbers are in the tables.";
      byId("trouble").hidden = false;
      root.dataset.ready = "no";
    }
  }

  start();
})();
