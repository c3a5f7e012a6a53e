const data = JSON.parse(document.getElementById("data").textContent);
const colours = Uint8Array.from(atob(data.colours), (c) => c.charCodeAt(0));
const $ = (id) => document.getElementById(id);
const make = (tag, set = {}, parent = null) => {
  const element = Object.assign(document.createElement(tag), set);
  parent?.append(element);
  return element;
};
let layer = 0, head = 0, patch = 0, maps = {}, loading = 0;
let H = 0, W = 0, keyH = 0, keyW = 0; // the grids of the layer's queries and keys
const place = (patch, width = W) => `row ${Math.floor(patch / width) + 1}, column ${(patch % width) + 1}`;

// a map comes as a grey PNG, a row a query: the square root of each entry's share of its row's largest
async function decode(address) {
  const image = make("img", { src: address });
  await image.decode();
  const canvas = make("canvas", { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  return Uint8Array.from({ length: pixels.length / 4 }, (_, i) => pixels[4 * i]);
}

function row(map, stride) {
  const y = Math.floor(Math.floor(patch / W) / stride), x = Math.floor((patch % W) / stride);
  const keys = keyH * keyW, start = (y * Math.ceil(W / stride) + x) * keys;
  return map.subarray(start, start + keys);
}

function paint(canvas, colour) {
  Object.assign(canvas, { width: keyW, height: keyH });
  const context = canvas.getContext("2d"), image = context.createImageData(keyW, keyH);
  for (let i = 0; i < keyW * keyH; i++) image.data.set([...colour(i), 255], 4 * i);
  context.putImageData(image, 0, 0);
}
const viridis = (values) => (i) => colours.subarray(3 * values[i], 3 * values[i] + 3);

function mark(view) {
  const marker = view.querySelector(".marker") ?? make("div", { className: "marker" }, view);
  Object.assign(marker.style, { left: `${100 * (patch % W) / W}%`, top: `${100 * Math.floor(patch / W) / H}%`, width: `${100 / W}%`, height: `${100 / H}%` });
}

function show() {
  for (const view of document.querySelectorAll("[data-map]")) {
    const map = maps[view.dataset.map];
    if (!map) continue;
    paint(view.querySelector("canvas"), viridis(row(map.values, map.stride)));
    mark(view);
  }
  const share = (100 * data.peaks[layer][head][patch]).toFixed(1);
  $("says").textContent = `On average the patch at ${place(patch)} looks most at ${place(data.best[layer][head][patch], keyW)} (${share} %).`;
}

function pick(next, focus = false) {
  const cells = $("picker").querySelectorAll("[role=gridcell]");
  cells[patch].tabIndex = -1;
  patch = next;
  cells[patch].tabIndex = 0;
  if (focus) cells[patch].focus();
  show();
}

// the layer's grids; the grid of cells that takes pointer and keyboard is built again where they change
function setGrid(l) {
  const [h, w] = data.queries[l];
  [keyH, keyW] = data.keys[l];
  if (h === H && w === W) return;
  [H, W] = [h, w];
  patch = Math.floor(H / 2) * W + Math.floor(W / 2);
  $("picker").replaceChildren();
  for (let y = 0; y < H; y++) {
    const line = make("div", { role: "row" }, $("picker"));
    for (let x = 0; x < W; x++) make("div", { role: "gridcell", tabIndex: y * W + x === patch ? 0 : -1, ariaLabel: place(y * W + x), onfocus: () => { if (patch !== y * W + x) pick(y * W + x); } }, line);
  }
  for (const view of document.querySelectorAll(".view")) view.style.aspectRatio = `${W} / ${H}`;
}

async function choose(l, h) {
  const turn = ++loading, examples = data.examples[l] ?? [];
  const [average, ...others] = await Promise.all([data.average[l][h], ...examples.map((heads) => heads[h])].map(decode));
  if (turn !== loading) return; // another head was chosen meanwhile
  [layer, head] = [l, h];
  for (const button of $("overview").querySelectorAll("button")) button.ariaPressed = String(button.dataset.at === `${l},${h}`);
  setGrid(l);
  maps.average = { values: average, stride: data.stride };
  document.querySelectorAll("[data-example]").forEach((figure, i) => {
    figure.hidden = i >= others.length;
    maps[`example${i}`] = i < others.length ? { values: others[i], stride: data.sparse } : null;
  });
  $("chosen").textContent = `Layer ${data.numbers[l]}, head ${h}`;
  showSets();
  show();
}

// recovered sets, only where two halves of the images agree on them
function showSets() {
  const found = data.recovered[layer], agreement = found?.agreement[head] ?? -1, stable = agreement >= data.stable_from;
  $("recovered").querySelector(".view").hidden = !stable;
  if (stable) paint($("sets"), (i) => [0, 1, 2].map((c) => 130 + 100 * Math.cos(2.4 * found.sets[head][i] + 2.1 * c)));
  $("agreement").textContent = found ? `Two halves of the images agree to ${agreement.toFixed(2)} (adjusted Rand index): ${stable ? "stable" : "not stable, so not shown"}.` : "None: queries and keys are not the same patches.";
}

function colourBy(name) {
  const values = data.measures[name], all = values.flat().filter((value) => value !== null), low = Math.min(...all), high = Math.max(...all);
  for (const button of $("overview").querySelectorAll("button")) {
    const [l, h] = button.dataset.at.split(",").map(Number), value = values[l][h];
    if (value === null) { Object.assign(button.style, { background: "none", color: "inherit" }); button.textContent = "–"; button.ariaLabel = `Layer ${data.numbers[l]}, head ${h}: none`; continue; }
    const level = high > low ? Math.round(255 * (value - low) / (high - low)) : 128;
    const rgb = [...colours.subarray(3 * level, 3 * level + 3)];
    Object.assign(button.style, { background: `rgb(${rgb})`, color: level > 140 ? "#000" : "#fff" });
    button.textContent = Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2);
    button.ariaLabel = `Layer ${data.numbers[l]}, head ${h}: ${value.toFixed(3)}`;
  }
  const reference = data.references[0][name];
  $("legend").textContent = `dark ${low.toFixed(3)} … bright ${high.toFixed(3)}` + (reference === undefined ? "" : `; ${name.includes("association") ? "chance" : "a uniform map"} ${reference.toFixed(3)}`);
  $("note").textContent = $("measure").selectedOptions[0].dataset.note;
}

function build() {
  const first = make("tr", {}, $("overview"));
  make("td", {}, first);
  const most = Math.max(...data.average.map((heads) => heads.length));
  for (let h = 0; h < most; h++) make("th", { scope: "col", textContent: h }, first);
  data.average.forEach((heads, l) => {
    const line = make("tr", {}, $("overview"));
    make("th", { scope: "row", textContent: data.numbers[l] }, line);
    heads.forEach((_, h) => { make("button", { onclick: () => choose(l, h) }, make("td", {}, line)).dataset.at = `${l},${h}`; });
  });
  data.pictures.slice(0, Math.max(...data.examples.map((images) => images?.length ?? 0))).forEach((picture, i) => {
    const figure = make("figure", {}, $("views"));
    figure.dataset.example = i;
    make("figcaption", { textContent: `On example ${i + 1}` + (data.sparse > 1 ? `, nearest of every ${data.sparse}th query` : "") }, figure);
    const view = make("div", { className: "view" }, figure);
    view.dataset.map = `example${i}`;
    view.style.backgroundImage = `url(${picture})`;
    make("canvas", { role: "img", ariaLabel: `Where the chosen patch looks on example ${i + 1}` }, view);
  });
  const under = (event, view) => {
    const box = view.getBoundingClientRect(), inside = (v, n) => Math.min(n - 1, Math.max(0, Math.floor(v * n)));
    return inside((event.clientY - box.top) / box.height, H) * W + inside((event.clientX - box.left) / box.width, W);
  };
  for (const view of document.querySelectorAll("[data-map]"))
    for (const kind of ["pointermove", "pointerdown"]) view.addEventListener(kind, (event) => pick(under(event, view)));
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  $("picker").addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const y = Math.floor(patch / W) + move[0], x = (patch % W) + move[1];
    if (y >= 0 && y < H && x >= 0 && x < W) pick(y * W + x, true);
  });
  document.querySelectorAll("#numbers th").forEach((heading, column) => heading.firstChild.addEventListener("click", () => {
    const down = heading.ariaSort !== "descending", body = $("numbers").tBodies[0];
    document.querySelectorAll("#numbers th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.ariaSort = down ? "descending" : "ascending";
    const value = (line) => Number(line.cells[column].dataset.value);
    body.append(...[...body.rows].sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b))));
  }));
  $("measure").addEventListener("change", () => colourBy($("measure").value));
}

build();
colourBy($("measure").value);
if (data.similarity) decode(data.similarity).then((values) => { maps.similarity = { values, stride: 1 }; if (maps.average) show(); });
choose(0, 0).then(() => { document.body.dataset.ready = "yes"; });
