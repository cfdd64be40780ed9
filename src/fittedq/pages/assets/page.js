"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PALETTE = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const HEIGHT = 240, PAPER = 640;
const drawings = [];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const make = (tag, parent, options = {}) => parent.appendChild(Object.assign(document.createElement(tag), options));
const number = (value) => value == null ? "–" : value && Math.abs(value) < 1e-4 ? value.toExponential(1) : Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 });

function choice(parent, label, names, chosen, change) {
  const select = make("select", make("label", parent, { textContent: label }));
  names.forEach((name, place) => make("option", select, { textContent: name, value: place, selected: place === chosen }));
  select.onchange = () => change(Number(select.value));
  return select;
}

// ------------------------------------------------------------------ curves

function lines(figure, told) {
  let view = 0, plot = null;
  if (told.views.length > 1) {
    choice(make("div", figure, { className: "controls" }), "show", told.views.map((one) => one.name), 0, (place) => { view = place; draw(); });
  }
  const place = make("div", figure);
  function draw(width) {
    plot?.destroy();
    const shown = told.views[view], columns = [shown.x], series = [{ label: told.x_label, value: (_, v) => number(v) }], bands = [];
    for (const curve of shown.curves) {
      const color = css(`--c${curve.color % 6}`), faint = curve.style === "faint";
      const one = { label: curve.name, stroke: faint ? css("--soft") : color, width: faint ? 1 : 1.6, spanGaps: true, value: (_, v) => number(v) };
      one.points = { show: shown.x.length < 60 && curve.style === "line", size: 5 };
      if (curve.style === "dashed") one.dash = [6, 4];
      if (curve.style === "steps") one.paths = uPlot.paths.stepped({ align: 1 });
      if (curve.y.length) { columns.push(curve.y); series.push(one); }
      if (curve.low.length) {
        const edge = { stroke: "transparent", width: 0, spanGaps: true, points: { show: false }, value: (_, v) => number(v) };
        columns.push(curve.high, curve.low);
        series.push({ ...edge, class: "edge", label: `${curve.name}, high` }, { ...edge, class: "edge", label: `${curve.name}, low` });
        bands.push({ series: [series.length - 2, series.length - 1], fill: color + "33" });
      }
    }
    const axis = { stroke: css("--soft"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line"), width: 1 }, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 16, labelGap: 0, size: 36,
      values: (_, splits) => splits.map((value) => value == null ? "" : number(value)) };
    plot = new uPlot({
      width: width || place.clientWidth || PAPER, height: HEIGHT, series, bands,
      scales: { x: { time: false }, y: told.log ? { distr: 3 } : {} },
      axes: [{ ...axis, label: told.x_label }, { ...axis, label: told.y_label, size: 64 }],
      legend: { live: true, markers: { width: 3 } },
    }, columns, place);
  }
  return draw;
}

// ------------------------------------------------------------------ heat maps

function color(share) {
  const at = Math.min(Math.max(share, 0), 1) * (PALETTE.length - 1), low = Math.min(Math.floor(at), PALETTE.length - 2);
  return PALETTE[low].map((part, place) => Math.round(part + (at - low) * (PALETTE[low + 1][place] - part)));
}

function maps(figure, told) {
  const { n, axes } = told, names = Object.keys(told.values);
  const levels = names.map((name) => Uint8Array.from(atob(told.values[name].levels), (letter) => letter.charCodeAt(0)));
  const stride = axes.map((_, place) => n ** (axes.length - 1 - place));
  const nearest = (axis) => Math.round((n - 1) * (axis.middle - axis.low) / (axis.high - axis.low || 1));
  const at = axes.map(nearest), labels = axes.map((axis) => axis.name);
  let shown = 0, x = 0, y = told.up;
  const where = (axis, place) => axis.low + place / (n - 1) * (axis.high - axis.low);
  const top = make("div", figure, { className: "controls" });
  if (names.length > 1) choice(top, "show", names, 0, (place) => { shown = place; draw(); });
  let across, up;
  if (axes.length > 2) {
    across = choice(top, "across", labels, x, (place) => { if (place === y) y = x; x = place; up.value = y; sliders(); draw(); });
    up = choice(top, "up", labels, y, (place) => { if (place === x) x = y; y = place; across.value = x; sliders(); draw(); });
  }
  const below = make("div", figure, { className: "controls" });
  const canvas = make("canvas", figure), scale = make("div", figure, { className: "scale" });
  const low = make("span", scale), ramp = make("i", scale), high = make("span", scale);
  const read = make("p", figure, { className: "why" });
  ramp.style.background = `linear-gradient(90deg, ${PALETTE.map((rgb) => `rgb(${rgb})`).join(", ")})`;
  const index = (place) => place.reduce((sum, one, axis) => sum + one * stride[axis], 0);
  const value = (place) => { const held = told.values[names[shown]]; return held.low + levels[shown][index(place)] / 255 * (held.high - held.low); };
  function sliders() {
    below.replaceChildren();
    axes.forEach((axis, place) => {
      if (place === x || place === y) return;
      const label = make("label", below, { textContent: axis.name });
      const slider = make("input", label, { type: "range", min: 0, max: n - 1, value: at[place] });
      const told_at = make("span", label, { textContent: number(where(axis, at[place])) });
      slider.oninput = () => { at[place] = Number(slider.value); told_at.textContent = number(where(axis, at[place])); draw(); };
    });
  }
  const [left, bottom] = [58, 40], cells = document.createElement("canvas");
  function draw() {
    const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || 480, height = width * 3 / 4;
    canvas.width = width * ratio; canvas.height = height * ratio;
    const pen = canvas.getContext("2d"), rows = axes.length > 1 ? n : 1;
    const image = new ImageData(n, rows), place = [...at];
    for (let i = 0; i < n; i++) for (let j = 0; j < rows; j++) {
      place[x] = i; if (rows > 1) place[y] = j;
      image.data.set([...color(levels[shown][index(place)] / 255), 255], 4 * ((rows - 1 - j) * n + i));
    }
    cells.width = n; cells.height = rows;
    cells.getContext("2d").putImageData(image, 0, 0);
    pen.scale(ratio, ratio);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(cells, left, 0, width - left, height - bottom);
    pen.fillStyle = css("--soft"); pen.font = "12px system-ui, sans-serif";
    const texts = [[number(axes[x].low), left, height - bottom + 16, "left"], [number(axes[x].high), width, height - bottom + 16, "right"], [labels[x], left + (width - left) / 2, height - 6, "center"]];
    if (rows > 1) texts.push([number(axes[y].low), left - 6, height - bottom, "right"], [number(axes[y].high), left - 6, 12, "right"]);
    for (const [text, right, down, align] of texts) { pen.textAlign = align; pen.fillText(text, right, down); }
    if (rows > 1) { pen.save(); pen.translate(14, (height - bottom) / 2); pen.rotate(-Math.PI / 2); pen.textAlign = "center"; pen.fillText(labels[y], 0, 0); pen.restore(); }
    const held = told.values[names[shown]];
    low.textContent = number(held.low); high.textContent = number(held.high); read.textContent = " ";
  }
  canvas.onpointermove = (event) => {
    const box = canvas.getBoundingClientRect(), place = [...at];
    const i = Math.floor((event.clientX - box.left - left) / ((box.width - left) / n));
    const j = n - 1 - Math.floor((event.clientY - box.top) / ((box.height - bottom) / n));
    if (i < 0 || i >= n || j < 0 || j >= n) return;
    place[x] = i; if (axes.length > 1) place[y] = j;
    read.textContent = `${names[shown]} = ${number(value(place))} at ${axes.map((axis, k) => `${axis.name} ${number(where(axis, place[k]))}`).join(", ")}`;
  };
  sliders();
  return draw;
}

// ------------------------------------------------------------------ the page

const all = () => drawings.forEach((draw) => draw());
for (const [key, told] of Object.entries(data)) {
  const draw = { lines, maps }[told.kind](document.getElementById(key), told);
  drawings.push(draw);
  draw();
}
let width = window.innerWidth;
window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; all(); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
window.addEventListener("beforeprint", () => drawings.forEach((draw) => draw(PAPER)));
window.addEventListener("afterprint", all);
