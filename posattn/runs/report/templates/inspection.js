const data = JSON.parse(document.getElementById("data").textContent);
const [H, W] = data.grid, D = H * W;
const colours = Uint8Array.from(atob(data.colours), (c) => c.charCodeAt(0));
const $ = (id) => document.getElementById(id);
const make = (tag, set = {}, parent = null) => {
  const element = Object.assign(document.createElement(tag), set);
  parent?.append(element);
  return element;
};
const place = (patch) => `row ${Math.floor(patch / W) + 1}, column ${(patch % W) + 1}`;
let layer = 0, head = 0, patch = Math.floor(H / 2) * W + Math.floor(W / 2), maps = {}, loading = 0;

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
  const start = (y * Math.ceil(W / stride) + x) * D;
  return map.subarray(start, start + D);
}

function paint(canvas, colour) {
  Object.assign(canvas, { width: W, height: H });
  const context = canvas.getContext("2d"), image = context.createImageData(W, H);
  for (let i = 0; i < D; i++) image.data.set([...colour(i), 255], 4 * i);
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
  $("says").textContent = `On average the patch at ${place(patch)} looks most at ${place(data.best[layer][head][patch])} (${share} %).`;
}

function pick(next, focus = false) {
  const cells = $("picker").querySelectorAll("[role=gridcell]");
  cells[patch].tabIndex = -1;
  patch = next;
  cells[patch].tabIndex = 0;
  if (focus) cells[patch].focus();
  show();
}

async function choose(l, h) {
  [layer, head] = [l, h];
  const turn = ++loading;
  for (const button of $("overview").querySelectorAll("button")) button.ariaPressed = String(button.dataset.at === `${l},${h}`);
  const [average, ...examples] = await Promise.all([data.average[l][h], ...data.examples.map((of) => of[l][h])].map(decode));
  if (turn !== loading) return; // another head was chosen meanwhile
  maps.average = { values: average, stride: data.stride };
  examples.forEach((values, i) => { maps[`example${i}`] = { values, stride: data.sparse }; });
  $("chosen").textContent = `Layer ${l}, head ${h}`;
  const sets = data.recovered.sets[l][h], agreement = data.recovered.agreement[l][h];
  const hue = (i) => [0, 1, 2].map((c) => 130 + 100 * Math.cos(2.4 * sets[i] + 2.1 * c));
  paint($("sets"), hue);
  $("agreement").textContent = `Two halves of the images agree to ${agreement.toFixed(2)} (adjusted Rand index): ${agreement >= data.recovered.stable_from ? "stable" : "not stable, do not read them"}.`;
  show();
}

function colourBy(name) {
  const values = data.measures[name], all = values.flat(), low = Math.min(...all), high = Math.max(...all);
  for (const button of $("overview").querySelectorAll("button")) {
    const [l, h] = button.dataset.at.split(",").map(Number), value = values[l][h];
    const level = high > low ? Math.round(255 * (value - low) / (high - low)) : 128;
    const rgb = [...colours.subarray(3 * level, 3 * level + 3)];
    Object.assign(button.style, { background: `rgb(${rgb})`, color: level > 140 ? "#000" : "#fff" });
    button.textContent = Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(2);
    button.ariaLabel = `Layer ${l}, head ${h}: ${value.toFixed(3)}`;
  }
  const reference = data.reference[name];
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
    make("th", { scope: "row", textContent: l }, line);
    heads.forEach((_, h) => { make("button", { onclick: () => choose(l, h) }, make("td", {}, line)).dataset.at = `${l},${h}`; });
  });
  data.pictures.slice(0, data.examples.length).forEach((picture, i) => {
    const figure = make("figure", {}, $("views"));
    make("figcaption", { textContent: `On example ${i + 1}` + (data.sparse > 1 ? `, nearest of every ${data.sparse}th query` : "") }, figure);
    const view = make("div", { className: "view" }, figure);
    view.dataset.map = `example${i}`;
    view.style.backgroundImage = `url(${picture})`;
    make("canvas", { role: "img", ariaLabel: `Where the chosen patch looks on example ${i + 1}` }, view);
  });
  for (let y = 0; y < H; y++) {
    const line = make("div", { role: "row" }, $("picker"));
    for (let x = 0; x < W; x++) make("div", { role: "gridcell", tabIndex: -1, ariaLabel: place(y * W + x), onfocus: () => { if (patch !== y * W + x) pick(y * W + x); } }, line);
  }
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
choose(0, 0).then(() => pick(patch)).then(() => { document.body.dataset.ready = "yes"; });
