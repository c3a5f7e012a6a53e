const data = JSON.parse(document.getElementById("data").textContent);
const colours = Uint8Array.from(atob(data.colours), (c) => c.charCodeAt(0));
const $ = (id) => document.getElementById(id);
const make = (tag, set = {}, parent = null) => {
  const element = Object.assign(document.createElement(tag), set);
  parent?.append(element);
  return element;
};
let layer = 0, head = 0, maps = {}, loading = 0;
let patch = 0, special = null; // the query: a patch, or a class token or register where that is not null
let H = 0, W = 0, prefix = -1, keyH = 0, keyW = 0; // the grids of the layer's queries and keys
const place = (patch, width = W) => `row ${Math.floor(patch / width) + 1}, column ${(patch % width) + 1}`;
const prefixName = (token) => (prefix === 1 ? "Class token" : `Prefix token ${token + 1}`);

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

// the rows of a map are those of its prefix tokens, then every stride-th patch down and across
function row(map) {
  const y = Math.floor(Math.floor(patch / W) / map.stride), x = Math.floor((patch % W) / map.stride);
  const index = onPrefix(map) ? special : map.prefix + y * Math.ceil(W / map.stride) + x, keys = keyH * keyW;
  return map.values.subarray(index * keys, (index + 1) * keys);
}
const onPrefix = (map) => special !== null && map.prefix > 0;

function paint(canvas, colour, alpha = () => 255) {
  Object.assign(canvas, { width: keyW, height: keyH });
  const context = canvas.getContext("2d"), image = context.createImageData(keyW, keyH);
  for (let i = 0; i < keyW * keyH; i++) image.data.set([...colour(i), alpha(i)], 4 * i);
  context.putImageData(image, 0, 0);
}
// over a picture, what is looked at most is most opaque: at 0 the picture shows, at 1 the map
function overlay(values) {
  const opacity = Number($("opacity").value);
  return (i) => 255 * (opacity < 0.5 ? 2 * opacity * values[i] / 255 : values[i] / 255 + (2 * opacity - 1) * (1 - values[i] / 255));
}
const viridis = (values) => (i) => colours.subarray(3 * values[i], 3 * values[i] + 3);

function mark(view, map) {
  const marker = view.querySelector(".marker") ?? make("div", { className: "marker" }, view);
  marker.hidden = onPrefix(map);
  Object.assign(marker.style, { left: `${100 * (patch % W) / W}%`, top: `${100 * Math.floor(patch / W) / H}%`, width: `${100 / W}%`, height: `${100 / H}%` });
}

function show() {
  for (const view of document.querySelectorAll("[data-map]")) {
    const map = maps[view.dataset.map];
    if (!map) continue;
    const values = row(map);
    paint(view.querySelector("canvas"), viridis(values), view.style.backgroundImage ? overlay(values) : undefined);
    mark(view, map);
  }
  const query = special ?? prefix + patch, share = (100 * data.peaks[layer][head][query]).toFixed(1);
  const name = special === null ? `the patch at ${place(patch)}` : `the ${prefixName(special).toLowerCase()}`;
  $("says").textContent = `On average ${name} looks most at ${place(data.best[layer][head][query], keyW)} (${share} %).`;
  for (const button of $("prefix").children) button.ariaPressed = String(Number(button.dataset.token) === special);
}

function pick(next, focus = false) {
  const cells = $("picker").querySelectorAll("[role=gridcell]");
  cells[patch].tabIndex = -1;
  [patch, special] = [next, null];
  cells[patch].tabIndex = 0;
  if (focus) cells[patch].focus();
  show();
}

function pickPrefix(token) {
  special = special === token ? null : token;
  show();
}

// the layer's grids; the cells that take pointer and keyboard are built again where they change
function setGrid(l) {
  const [h, w, tokens] = data.queries[l];
  [keyH, keyW] = data.keys[l];
  if (tokens !== prefix) {
    [prefix, special] = [tokens, null];
    $("prefix").replaceChildren();
    for (let t = 0; t < prefix; t++) make("button", { textContent: prefixName(t), onclick: () => pickPrefix(t) }, $("prefix")).dataset.token = t;
  }
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
  setGrid(l);
  maps.average = { values: average, stride: data.stride, prefix };
  document.querySelectorAll("[data-example]").forEach((figure, i) => {
    figure.hidden = i >= others.length;
    maps[`example${i}`] = i < others.length ? { values: others[i], stride: data.sparse, prefix } : null;
  });
  $("chosen").textContent = `Layer ${data.numbers[l]}, head ${h}`;
  markChosen();
  showSets();
  show();
}

// recovered sets, only where two halves of the images agree on them
function showSets() {
  const found = data.recovered[layer], agreement = found?.agreement[head] ?? -1, stable = agreement >= data.stable_from;
  $("recovered").querySelector(".view").hidden = !stable;
  if (stable) paint($("sets"), (i) => [0, 1, 2].map((c) => 130 + 100 * Math.cos(2.4 * found.sets[head][i] + 2.1 * c)));
  $("agreement").textContent = found ? `Two halves of the images agree to ${agreement.toFixed(2)} (adjusted Rand index): ${stable ? "stable" : "not stable, so not shown"}.` : `None: ${String(data.queries[layer]) === String(data.keys[layer]) ? "they are not looked for among so many or so few patches" : "queries and keys are not the same patches"}.`;
}

const download = (name, href) => make("a", { download: name, href }).click();

// the views as they are shown, side by side
async function picture() {
  const views = [...document.querySelectorAll("#views figure:not([hidden]) .view")], side = 320, tall = Math.round(side * H / W);
  const canvas = make("canvas", { width: views.length * (side + 8) - 8, height: tall }), context = canvas.getContext("2d");
  for (const [i, view] of views.entries()) {
    const source = view.style.backgroundImage.slice(5, -2), at = [i * (side + 8), 0, side, tall];
    if (source) {
      const image = make("img", { src: source });
      await image.decode();
      context.imageSmoothingEnabled = image.width >= 100;
      context.drawImage(image, ...at);
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(view.querySelector("canvas"), ...at);
  }
  return canvas.toDataURL("image/png");
}

function buildViews() {
  const shown = Math.max(...data.examples.map((images) => images?.length ?? 0));
  data.pictures.slice(0, shown).forEach((picture, i) => {
    const figure = make("figure", {}, $("views"));
    figure.dataset.example = i;
    make("figcaption", { textContent: `On example ${i + 1}` }, figure);
    const view = make("div", { className: "view" }, figure);
    view.dataset.map = `example${i}`;
    view.style.backgroundImage = `url("${picture}")`;
    const image = make("img", { src: picture });
    image.decode().then(() => { view.style.imageRendering = image.width < 100 ? "pixelated" : "auto"; }); // small ones stay sharp
    make("canvas", { role: "img", ariaLabel: `Where the query looks on example ${i + 1}` }, view);
  });
  if (shown && data.sparse > 1) $("views").after(make("p", { className: "axes", textContent: `Examples hold every ${data.sparse}${data.sparse === 2 ? "nd" : data.sparse === 3 ? "rd" : "th"} row and column of queries, and show the one at or before the patch.` }));
  $("overlay").hidden = !shown;
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
  $("opacity").addEventListener("input", show);
  $("png").addEventListener("click", async () => download(`layer${data.numbers[layer]}-head${head}.png`, await picture()));
}
