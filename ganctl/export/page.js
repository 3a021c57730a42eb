// What a page shows: one image with where it looks, the way to another, and a grid.
"use strict";

const model = JSON.parse(document.getElementById("model").textContent);
const matrices = numbers("matrices", model.half), vectors = numbers("vectors", false);
const GRID = 4; // images along a side
const RAMP = [[40, 42, 88], [122, 44, 122], [226, 84, 70], [252, 166, 60], [255, 243, 150]];
const at = (id) => document.getElementById(id);
let shown = null; // the image that is drawn, with its attention blocks
let point = null; // in it, whose attention is shown
let grids = 0; // begun; an older one stops

// A seed as it is typed; text, as seeds may have more digits than a number here.
function seedOf(id) {
  const text = at(id).value.trim(), known = /^\d{1,18}$/.test(text);
  at(id).setAttribute("aria-invalid", String(!known));
  return known ? BigInt(text).toString() : "0";
}

function truncation() {
  return at("cut").checked ? Number(at("truncation").value) : null;
}

function sharesAt(share) {
  if (!model.classes.length) return [];
  const [first, second] = [Number(at("class").value), Number(at("class-2").value)];
  return first === second || share === 0 ? [[first, 1]] : [[first, 1 - share], [second, share]];
}

function imageOf(seed, shares) {
  return generate(latent(seed, truncation()), shares);
}

function paint(canvas, image, x = 0, y = 0) {
  canvas.getContext("2d").putImageData(new ImageData(image.levels, image.side, image.side), x, y);
}

function draw() {
  const share = Number(at("share").value);
  const started = performance.now();
  const start = latent(seedOf("seed"), truncation());
  const z = share === 0 ? start : between(start, latent(seedOf("seed-2"), truncation()), share);
  shown = generate(z, sharesAt(share));
  const took = performance.now() - started;
  paint(at("image"), shown);
  at("image").setAttribute("aria-label", `The image of seed ${seedOf("seed")}`);
  at("cut-value").textContent = at("cut").checked ? at("truncation").value : "off";
  at("took").textContent = `${took < 10 ? took.toFixed(1) : Math.round(took)} ms`;
  look();
}

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  setTimeout(() => { waiting = false; draw(); });
}

// ---- attention ---------------------------------------------------------------------------------------

function look() {
  const heat = at("heat"), pen = heat.getContext("2d");
  pen.clearRect(0, 0, heat.width, heat.height);
  const block = shown.looks[at("block") ? Number(at("block").value) : 0];
  if (!point || !block) return;
  const cell = model.resolution / block.side;
  const weights = lookOf(block, Math.floor(point[1] / cell) * block.side + Math.floor(point[0] / cell));
  const largest = Math.max(...weights);
  const small = new OffscreenCanvas(block.keys, block.keys), pixels = new ImageData(block.keys, block.keys);
  weights.forEach((weight, n) => pixels.data.set([...colour(weight / largest), 90 + (130 * weight) / largest], 4 * n));
  small.getContext("2d").putImageData(pixels, 0, 0);
  pen.drawImage(small, 0, 0, heat.width, heat.height);
  const scale = heat.width / model.resolution;
  pen.lineWidth = 3;
  for (const [radius, line] of [[8, "#fff"], [5, "#0072b2"]]) {
    pen.strokeStyle = line;
    pen.beginPath();
    pen.arc((point[0] + 0.5) * scale, (point[1] + 0.5) * scale, radius, 0, 2 * Math.PI);
    pen.stroke();
  }
  at("looks").textContent = `The point ${point.join(", ")} looks up to ${(largest * weights.length).toFixed(1)} times as much there as it would everywhere.`;
}

function colour(share) {
  const place = share * (RAMP.length - 1), low = Math.min(RAMP.length - 2, Math.floor(place));
  return RAMP[low].map((value, n) => value + (place - low) * (RAMP[low + 1][n] - value));
}

function pointAt(event) {
  const box = at("image").getBoundingClientRect();
  const inside = (share) => Math.min(model.resolution - 1, Math.max(0, Math.floor(share * model.resolution)));
  point = [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
  look();
}

function pointBy(event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in moves)) return;
  const from = point || [model.resolution >> 1, model.resolution >> 1];
  point = from.map((value, n) => Math.min(model.resolution - 1, Math.max(0, value + moves[event.key][n])));
  look();
  event.preventDefault();
}

function away() {
  point = null;
  at("looks").textContent = "";
  look();
}

// ---- grid, files ------------------------------------------------------------------------------------

function grid() {
  const number = ++grids, first = BigInt(seedOf("seed")), canvas = at("grid");
  canvas.width = canvas.height = GRID * model.resolution;
  at("grid-place").hidden = false;
  function next(n) {
    if (number !== grids || n === GRID * GRID) return;
    const image = imageOf((first + BigInt(n)).toString(), sharesAt(0));
    paint(canvas, image, (n % GRID) * image.side, Math.floor(n / GRID) * image.side);
    setTimeout(() => next(n + 1));
  }
  next(0);
}

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

for (const id of ["image"]) at(id).width = at(id).height = model.resolution;
for (const id of ["seed", "seed-2", "share", "cut", "truncation", "class", "class-2"]) {
  if (at(id)) at(id).addEventListener("input", soon);
}
if (at("block")) at("block").addEventListener("input", look);
at("another").addEventListener("click", () => {
  at("seed").value = String(Math.floor(Math.random() * 1e9));
  soon();
});
at("more").addEventListener("click", grid);
at("save").addEventListener("click", () => save(at("image"), `seed-${seedOf("seed")}.png`));
at("save-grid").addEventListener("click", () => save(at("grid"), `seeds-from-${seedOf("seed")}.png`));
at("image").addEventListener("pointermove", pointAt);
at("image").addEventListener("pointerdown", pointAt);
at("image").addEventListener("pointerleave", away);
at("image").addEventListener("keydown", pointBy);
at("image").addEventListener("blur", away);
draw();
document.documentElement.dataset.ready = "yes";
