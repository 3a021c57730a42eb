// The curves and the slider of a report. All text comes in as data and goes out as text.
"use strict";

const WIDTH = 480, HEIGHT = 250, LEFT = 58, RIGHT = 22, TOP = 10, BOTTOM = 26;
const NEAR = 0.012; // share of the axis within which a mark is told

function data(id) {
  const block = document.getElementById(id);
  return block ? JSON.parse(block.textContent) : null;
}

function drawn(parent, name, attributes, words) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (words !== undefined) element.textContent = words;
  parent.append(element);
  return element;
}

function short(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e6 || size < 1e-3) return value.toExponential(1).replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

// What an axis does with a value, the inverse, and where its ticks are.
function transform(scale, values) {
  if (scale === "log") return { to: (v) => (v > 0 ? Math.log10(v) : NaN), from: (t) => 10 ** t };
  if (scale === "symlog") {
    const sizes = values.map(Math.abs).sort((a, b) => a - b);
    const unit = sizes[sizes.length >> 1] || 1;
    return { to: (v) => Math.asinh(v / unit), from: (t) => unit * Math.sinh(t), unit };
  }
  return { to: (v) => v, from: (t) => t };
}

function evenTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high + step * 1e-9; n++) ticks.push(n * step);
  return ticks;
}

function ticksOf(scale, axis, low, high) {
  if (scale === "linear") return evenTicks(low, high, 5);
  const powers = Array.from({ length: 61 }, (_, n) => 10 ** (n - 30));
  const fine = powers.flatMap((p) => [p, 2 * p, 5 * p]);
  const inside = (all) => all.filter((v) => axis.to(v) >= low && axis.to(v) <= high);
  if (scale === "log") {
    const found = inside(high - low > 2 ? powers : fine);
    const every = Math.ceil(found.length / 7);
    return found.filter((_, n) => n % every === 0);
  }
  const positive = inside(powers.filter((p) => p >= axis.unit));
  const negative = inside(powers.filter((p) => p >= axis.unit).map((p) => -p));
  const every = Math.ceil((positive.length + negative.length) / 6) || 1;
  return [...negative.filter((_, n) => n % every === 0), 0, ...positive.filter((_, n) => n % every === 0)];
}

function path(points, x, y) {
  let text = "", open = false;
  for (const [step, value] of points) {
    const height = value === null ? NaN : y(value);
    if (Number.isFinite(height)) text += `${open ? "L" : "M"}${x(step).toFixed(1)} ${height.toFixed(1)}`;
    open = Number.isFinite(height);
  }
  return text;
}

function alone(points) {
  const there = (n) => n >= 0 && n < points.length && points[n][1] !== null;
  return points.filter((_, n) => there(n) && !there(n - 1) && !there(n + 1));
}

function nearest(points, step) {
  let best = null;
  for (const point of points) {
    if (point[1] !== null && (!best || Math.abs(point[0] - step) < Math.abs(best[0] - step))) best = point;
  }
  return best;
}

function range(values, pad) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (!(low <= high)) return [0, 1];
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  return [low - pad * (high - low), high + pad * (high - low)];
}

function panel(figure, spec, marks) {
  const points = spec.lines.flatMap((line) => line.points);
  const values = points.map((p) => p[1]).filter((v) => v !== null);
  const axis = transform(spec.scale, values);
  const [first, last] = range(points.map((p) => p[0]), 0);
  const [low, high] = spec.share ? [-0.03, 1.03] : range(values.map(axis.to), 0.05);
  const x = (step) => LEFT + ((step - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((axis.to(value) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const svg = drawn(figure, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0 });
  svg.setAttribute("aria-label", `${spec.title}; arrow keys read it out`);
  for (const value of ticksOf(spec.scale, axis, low, high)) {
    drawn(svg, "line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) });
    drawn(svg, "text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value));
  }
  for (const step of evenTicks(first, last, 5)) {
    drawn(svg, "text", { x: x(step), y: HEIGHT - 8, "text-anchor": "middle" }, step.toLocaleString("en"));
  }
  // What happened after the last figures, as a failure does, is marked at the end of the axis.
  const place = (mark) => Math.min(last, Math.max(first, mark.step));
  for (const mark of spec.marked ? marks : []) {
    const at = x(place(mark));
    const line = drawn(svg, "line", { class: `mark c${mark.run % 8}`, x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM });
    drawn(line, "title", {}, `${mark.step.toLocaleString("en")}: ${mark.words}`);
  }
  for (const line of spec.lines) {
    const kind = `c${line.run % 8}`;
    const style = `${["", " dashed", " dotted"][line.style]}${line.edge ? " edge" : ""}`;
    drawn(svg, "path", { class: `curve ${kind}${style}`, d: path(line.points, x, y) });
    for (const [step, value] of alone(line.points)) {
      if (Number.isFinite(y(value))) drawn(svg, "circle", { class: `dot ${kind}`, cx: x(step), cy: y(value), r: 2.2 });
    }
  }
  listen(figure, svg, spec, marks, { x, first, last, place });
}

function listen(figure, svg, spec, marks, { x, first, last, place }) {
  const cursor = drawn(svg, "line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM });
  const readout = document.createElement("p");
  readout.className = "readout";
  readout.setAttribute("aria-live", "polite");
  figure.append(readout);
  const shown = spec.lines.filter((line) => !line.edge);
  const steps = [...new Set(shown.flatMap((line) => line.points.map((p) => p[0])))].sort((a, b) => a - b);
  let at = steps.length - 1;

  function tell() {
    const step = steps[at];
    const told = shown.map((line) => [line, nearest(line.points, step)]).filter((pair) => pair[1]);
    const words = told.map(([line, point]) => `${line.name} ${short(point[1])}`);
    const close = spec.marked ? marks.filter((m) => Math.abs(place(m) - step) <= NEAR * (last - first)) : [];
    words.push(...close.map((m) => `${m.words} (at ${m.step.toLocaleString("en")})`));
    readout.textContent = `${spec.along} ${step.toLocaleString("en")}: ${words.join(" · ")}`;
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(step));
    cursor.style.visibility = "visible";
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT);
    const step = first + share * (last - first);
    at = steps.reduce((best, s, n) => (Math.abs(s - step) < Math.abs(steps[best] - step) ? n : best), 0);
    tell();
  });
  svg.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - 20, PageDown: at + 20, Home: 0, End: steps.length - 1 };
    if (!(event.key in moves)) return;
    at = Math.min(steps.length - 1, Math.max(0, moves[event.key]));
    tell();
    event.preventDefault();
  });
  svg.addEventListener("focus", tell);
  svg.addEventListener("blur", () => { cursor.style.visibility = "hidden"; });
}

function slider(previews) {
  const input = document.getElementById("when");
  const output = document.getElementById("when-step");
  function show() {
    const step = previews.steps[Number(input.value)];
    output.textContent = step.toLocaleString("en");
    input.setAttribute("aria-valuetext", `step ${step}`);
    previews.runs.forEach((shots, run) => {
      const image = document.getElementById(`preview-${run}`);
      if (!image) return;
      const before = shots.filter((shot) => shot[0] <= step);
      const [at, address] = before.length ? before[before.length - 1] : shots[0];
      image.src = address;
      image.alt = `Generated images at step ${at}`;
      document.getElementById(`preview-step-${run}`).textContent = at.toLocaleString("en");
    });
  }
  input.addEventListener("input", show);
  show();
}

const curves = data("curves");
document.querySelectorAll("[data-panel]").forEach((figure) => {
  panel(figure, curves.panels[Number(figure.dataset.panel)], curves.marks);
});
const previews = data("previews");
if (previews) slider(previews);
document.documentElement.dataset.ready = "yes";
