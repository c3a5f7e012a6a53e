// all heads: the grid by layer, ranked, as dots over layers, and as a table; the address names the chosen one
const heads = data.average.flatMap((maps, l) => maps.map((_, h) => ({ l, h })));
const sinks = new Set(data.sinks.map(([number, h]) => `${number}-${h}`));
const address = ({ l, h }) => `${data.numbers[l]}-${h}`;
const measured = (name, { l, h }) => data.measures[name][l][h];
const range = (name) => {
  const all = heads.map((one) => measured(name, one)).filter((value) => value !== null);
  return [Math.min(...all), Math.max(...all)];
};
const rounded = (value, digits) => value.toFixed(digits).replace(/^-(?=[0.]*$)/, ""); // zero has no sign

function buildGrid() {
  const first = make("tr", {}, $("overview"));
  make("td", {}, first);
  const most = Math.max(...data.average.map((heads) => heads.length));
  for (let h = 0; h < most; h++) make("th", { scope: "col", textContent: h }, first);
  data.average.forEach((_, l) => {
    const line = make("tr", {}, $("overview"));
    make("th", { scope: "row", textContent: data.numbers[l] }, line);
    for (const one of heads.filter((one) => one.l === l)) {
      one.cell = make("td", {}, line);
      one.button = make("button", { className: "head", onclick: () => { location.hash = address(one); } }, one.cell);
      one.button.dataset.at = `${l},${one.h}`;
      one.button.classList.toggle("sink", sinks.has(address(one)));
    }
  });
}

function colourBy(name) {
  const [low, high] = range(name), ranked = $("order").value !== "model";
  for (const one of heads) {
    const { button } = one, value = measured(name, one), label = `Layer ${data.numbers[one.l]}, head ${one.h}${sinks.has(address(one)) ? ", sink" : ""}`;
    const text = value === null ? "–" : rounded(value, Math.abs(value) >= 100 ? 0 : 2);
    button.textContent = ranked ? `${data.numbers[one.l]}·${one.h}  ${text}` : text;
    button.ariaLabel = `${label}: ${value === null ? "none" : value.toFixed(3)}`;
    const level = value === null ? null : high > low ? Math.round(255 * (value - low) / (high - low)) : 128;
    if (level === null) Object.assign(button.style, { background: "none", color: "inherit" });
    else Object.assign(button.style, { background: `rgb(${[...colours.subarray(3 * level, 3 * level + 3)]})`, color: level > 140 ? "#000" : "#fff" });
  }
  const reference = data.uniform[name];
  $("legend").textContent = `Dark ${low.toFixed(3)}, bright ${high.toFixed(3)}` + (reference === undefined ? "." : `; ${name.includes("association") ? "chance" : "a uniform map"} ${reference}.`);
  $("note").textContent = $("measure").selectedOptions[0].dataset.note;
}

// order and filter by the measure; what has no value comes last
function arrange() {
  const name = $("measure").value, order = $("order").value, ranked = order !== "model", sign = order === "high" ? -1 : 1;
  const bound = (id, none) => ($(id).value === "" ? none : Number($(id).value));
  const low = bound("from", -Infinity), high = bound("to", Infinity), unbounded = low === -Infinity && high === Infinity;
  let left = 0;
  for (const one of heads) {
    const value = measured(name, one), within = value === null ? unbounded : value >= low && value <= high;
    const out = !within || ($("sinks")?.checked && !sinks.has(address(one)));
    one.button.classList.toggle("out", Boolean(out));
    left += out ? 0 : 1;
  }
  $("count").textContent = left === heads.length ? "" : `${left} of ${heads.length} heads.`;
  $("ranked").hidden = !ranked;
  $("overview").hidden = ranked;
  $("axes").textContent = `${ranked ? "Layer·head and value." : "Rows: layers; columns: heads."} Choose a head to see where it looks.`;
  const key = (one) => measured(name, one) === null ? Infinity : sign * measured(name, one);
  if (ranked) $("ranked").replaceChildren(...[...heads].sort((a, b) => key(a) - key(b)).map((one) => one.button));
  else for (const one of heads) one.cell.append(one.button);
  colourBy(name);
}

// one small plot a measure: layers across, a dot a head
function buildScatter() {
  const width = 300, height = 170, left = 38, right = 8, top = 14, bottom = 30;
  const svg = (tag, set, parent) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(set)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  };
  for (const name of ["distance", "entropy", "positionality"].filter((name) => data.measures[name])) {
    const figure = make("figure", {}, $("scatter")), uniform = data.references.map((reference) => reference[name]);
    make("figcaption", { textContent: $("measure").querySelector(`[value=${name}]`).textContent + (uniform[0] === undefined ? "" : " (dashed: a uniform map)") }, figure);
    const plot = svg("svg", { viewBox: `0 0 ${width} ${height}` }, figure);
    const [least, most] = range(name), high = Math.max(most, ...uniform.filter((value) => value !== undefined)), low = Math.min(0, least);
    const layers = data.average.length, step = (width - left - right) / layers;
    const x = (l, h = null) => left + step * (l + 0.5 + (h === null ? 0 : 0.6 * ((h + 0.5) / data.average[l].length - 0.5)));
    const y = (value) => top + (height - top - bottom) * (1 - (value - low) / (high - low || 1));
    const digits = high - low < 10 ? Math.min(4, Math.max(1, Math.ceil(1 - Math.log10(high - low || 1)))) : 0;
    for (const value of [low, (low + high) / 2, high]) {
      svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value) }, plot);
      svg("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end" }, plot).textContent = rounded(value, digits);
    }
    const every = Math.ceil(layers / 12);
    data.numbers.forEach((number, l) => {
      if (l % every === 0) svg("text", { x: x(l), y: height - 14, "text-anchor": "middle" }, plot).textContent = number;
      if (uniform[l] !== undefined) svg("line", { class: "uniform", x1: x(l) - step / 2, x2: x(l) + step / 2, y1: y(uniform[l]), y2: y(uniform[l]) }, plot);
    });
    svg("text", { x: (left + width) / 2, y: height, "text-anchor": "middle" }, plot).textContent = "layer";
    for (const one of heads.filter((one) => measured(name, one) !== null)) {
      const dot = svg("circle", { cx: x(one.l, one.h), cy: y(measured(name, one)), r: 3.5, "data-at": address(one) }, plot);
      dot.classList.toggle("sink", sinks.has(address(one)));
      svg("title", {}, dot).textContent = `Layer ${data.numbers[one.l]}, head ${one.h}: ${measured(name, one).toFixed(3)}`;
      dot.addEventListener("click", () => { location.hash = address(one); });
    }
  }
}

function markChosen() {
  const at = address({ l: layer, h: head });
  for (const { l, h, button } of heads) button.ariaPressed = String(l === layer && h === head);
  for (const element of document.querySelectorAll("#scatter circle, #numbers tbody tr")) element.classList.toggle("chosen", element.dataset.at === at);
  const dot = [...document.querySelectorAll("#scatter circle.chosen")];
  for (const each of dot) each.parentElement.append(each); // above the others
  const values = [...$("measure").options].map(({ value, textContent }) => [textContent, measured(value, { l: layer, h: head })]);
  const flag = sinks.has(at) ? "⚑ A sink. " : "";
  $("values").textContent = flag + values.filter(([, value]) => value !== null).map(([title, value]) => `${title} ${value.toFixed(3)}`).join(" · ");
}

// #layer-head; anything else leaves the head as it is
function follow() {
  const one = heads.find((one) => address(one) === location.hash.slice(1));
  return one ? choose(one.l, one.h) : undefined;
}

function buildTable() {
  document.querySelectorAll("#numbers th").forEach((heading, column) => heading.firstChild.addEventListener("click", () => {
    const down = heading.ariaSort !== "descending", body = $("numbers").tBodies[0];
    document.querySelectorAll("#numbers th").forEach((other) => other.removeAttribute("aria-sort"));
    heading.ariaSort = down ? "descending" : "ascending";
    const value = (line) => Number(line.cells[column].dataset.value);
    body.append(...[...body.rows].sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b))));
  }));
  $("numbers").tBodies[0].addEventListener("click", (event) => {
    const line = event.target.closest("tr");
    location.hash = line.dataset.at;
    $("chosen").scrollIntoView();
  });
  $("csv").addEventListener("click", () => download("table.csv", `data:text/csv;charset=utf-8,${encodeURIComponent(data.csv)}`));
}

buildViews();
buildGrid();
buildScatter();
buildTable();
arrange();
for (const id of ["order", "from", "to", "sinks"]) $(id)?.addEventListener("input", arrange);
$("measure").addEventListener("change", () => { $("from").value = $("to").value = ""; arrange(); });
addEventListener("hashchange", follow);
if (data.similarity) decode(data.similarity).then((values) => { maps.similarity = { values, stride: 1, prefix: 0 }; if (maps.average) show(); });
Promise.resolve(follow() ?? choose(0, 0)).then(() => { document.body.dataset.ready = "yes"; });
