"use strict";
(() => {
const find = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const read = id => JSON.parse(document.getElementById(id).textContent);
const make = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};
const draw = (name, attributes = {}, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
};

// ---------------------------------------------------------------- values

const table = read("videos-data");
const columns = (table.columns || []).map(column => ({
  ...column,
  values: column.words ? column.values.map(i => (i === null ? null : column.words[i])) : column.values,
}));
const count = columns.length ? columns[0].values.length : 0;
const named = title => columns.find(column => column.title === title);
const COLLATOR = new Intl.Collator("en", {numeric: true});
const PILLS = {FAKE: "fake", REAL: "real", UNCERTAIN: "unsure"};

const text = (column, value) => {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return value.toLocaleString("en", {minimumFractionDigits: column.digits, maximumFractionDigits: column.digits});
};
const shown = (column, value) =>
  column.pill && value in PILLS ? make("span", {class: `pill ${PILLS[value]}`}, value) : text(column, value);

let lines = null; // parsed when the first timeline is drawn
const timeline = row => (lines ??= read("timelines-data"))[row] || null;

// ---------------------------------------------------------------- timelines

const DASHES = ["", "7 4", "2 3", "9 3 2 3"];
const marker = (kind, x, y) => {
  const r = 3, shape = kind % 4;
  if (shape === 0) return `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`;
  if (shape === 1) return `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`;
  if (shape === 2) return `M${x},${y - r - 1}l${r + 1},${2 * r}h${-2 * r - 2}z`;
  return `M${x},${y - r - 1}l${r + 1},${r + 1}l${-r - 1},${r + 1}l${-r - 1},${-r - 1}z`;
};
const sum = steps => { let at = 0; return steps.map(step => (at += step)); };
const person = number => (number === null ? "no person" : `person ${number}`);
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200];
const clock = (s, step) => {
  if (step < 60) return `${s.toFixed(step < 1 ? 1 : 0)} s`;
  const minutes = Math.round(s / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")}`;
};
const low = value => (value / 1000).toFixed(2);

function chart(row, width) {
  const found = timeline(row);
  const [duration, threshold, people] = found;
  const tracks = people.map(([number, steps, shares]) => ({number, times: sum(steps).map(v => v / 100), shares}));
  const last = Math.max(duration || 0, ...tracks.flatMap(track => track.times), 0.01);
  const height = 150, left = 32, right = 10, top = 8, bottom = 20;
  const x = s => +(left + (s / last) * (width - left - right)).toFixed(1);
  const y = p => +(top + (1 - p) * (height - top - bottom)).toFixed(1);
  const what = tracks.map(t => `${person(t.number)} between ${low(Math.min(...t.shares))} and ${low(Math.max(...t.shares))}`);
  const svg = draw("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `p_fake over ${last.toFixed(1)} seconds: ${what.join("; ")}`});
  for (const p of [0, 0.5, 1]) {
    svg.append(draw("line", {class: "rule", x1: left, x2: width - right, y1: y(p), y2: y(p)}));
    svg.append(draw("text", {x: left - 5, y: y(p) + 4, "text-anchor": "end"}, p.toFixed(1)));
  }
  const step = STEPS.find(s => last / s <= Math.min(8, width / 90)) || last;
  for (let s = 0; s <= last * 1.001; s += step) {
    svg.append(draw("text", {x: x(s), y: height - 5, "text-anchor": s === 0 ? "start" : x(s) > width - 25 ? "end" : "middle"}, clock(s, step)));
  }
  if (threshold !== null) {
    svg.append(draw("line", {class: "threshold", x1: left, x2: width - right, y1: y(threshold), y2: y(threshold)}));
  }
  tracks.forEach((track, index) => {
    const points = track.times.map((s, i) => [x(s), y(track.shares[i] / 1000)]);
    svg.append(draw("path", {class: `person l${index % 4}`, "stroke-dasharray": DASHES[index % 4], style: "fill:none", d: `M${points.map(p => p.join(",")).join("L")}`}));
    svg.append(draw("path", {class: `l${index % 4}`, d: points.map(p => marker(index, ...p)).join("")}));
  });
  const legend = make("ul", {class: "legend"});
  tracks.forEach((track, index) => {
    const sample = draw("svg", {viewBox: "0 0 34 12", "aria-hidden": "true"});
    sample.append(draw("path", {class: `person l${index % 4}`, "stroke-dasharray": DASHES[index % 4], d: "M1,6H33"}));
    sample.append(draw("path", {class: `l${index % 4}`, d: marker(index, 17, 6)}));
    const item = make("li");
    item.append(sample, `${person(track.number)}: ${track.shares.length} ${track.shares.length === 1 ? "face" : "faces"}, highest ${low(Math.max(...track.shares))}`);
    legend.append(item);
  });
  if (threshold !== null) {
    const sample = draw("svg", {viewBox: "0 0 34 12", "aria-hidden": "true"});
    sample.append(draw("line", {class: "threshold", x1: 1, x2: 33, y1: 6, y2: 6}));
    legend.append(make("li", {}, sample, `FAKE from ${threshold.toFixed(2)}`));
  }
  const figure = make("div", {class: "timeline"});
  figure.append(svg, legend);
  return figure;
}

const timelines = find("#timeline-list");
if (timelines) {
  const rows = [];
  for (let row = 0; row < count; row++) if (table.timed[row]) rows.push(row);
  let next = 0;
  const more = find("#more-timelines");
  const add = () => {
    const width = Math.max(280, timelines.clientWidth > 900 ? timelines.clientWidth / 2 - 50 : timelines.clientWidth - 34);
    for (const row of rows.slice(next, next + 12)) {
      const card = make("article", {class: "card timeline"});
      const header = make("header");
      header.append(opener(row, columns[0].values[row]));
      for (const title of ["verdict", "label", "p_fake"]) {
        const column = named(title);
        if (column && column.values[row] !== null) header.append(make("span", {}, title === "verdict" ? "" : `${title} `, shown(column, column.values[row])));
      }
      card.append(header, ...chart(row, width).children);
      timelines.append(card);
    }
    next += 12;
    more.classList.toggle("hidden", next >= rows.length);
  };
  more.addEventListener("click", add);
  requestAnimationFrame(() => setTimeout(add)); // after the first paint
}

// ---------------------------------------------------------------- one video

function opener(row, label) {
  const button = make("button", {class: "link name", type: "button", "aria-haspopup": "dialog"}, label);
  button.addEventListener("click", () => open(row));
  return button;
}

function open(row) {
  const dialog = find("#video"), body = find("#video-body");
  find("#video-name").textContent = columns[0].values[row];
  body.replaceChildren();
  dialog.showModal();
  if (table.timed[row]) body.append(chart(row, Math.max(280, body.clientWidth)));
  const faces = all(`.face[data-video="${row}"]`);
  if (faces.length) {
    const list = make("ul", {class: "faces"});
    list.append(...faces.map(face => face.cloneNode(true)));
    all(".hidden", list).concat(...all(".face.hidden", list)).forEach(node => node.classList.remove("hidden"));
    body.append(list);
  }
  const facts = make("dl", {class: "plainlist"});
  for (const column of columns.slice(1)) {
    if (column.values[row] === null) continue;
    facts.append(make("dt", {}, column.title), make("dd", {}, shown(column, column.values[row])));
  }
  body.append(facts);
}

document.addEventListener("click", event => {
  const look = event.target.closest(".look");
  if (look) look.setAttribute("aria-pressed", look.getAttribute("aria-pressed") !== "true");
  const name = event.target.closest(".face .link");
  if (name && !event.target.closest("dialog")) open(+name.closest(".face").dataset.video);
});

// ---------------------------------------------------------------- faces

const bar = find("#face-controls");
if (bar) {
  const words = find("input", bar), badge = find("#face-badge"), order = find("#face-order"), unblur = find("#unblur");
  const told = find("#face-count");
  const faces = all("main .face").map((node, index) => ({node, index, home: node.parentNode, keys: JSON.parse(node.dataset.keys), words: node.textContent.toLowerCase()}));
  const apply = () => {
    const wanted = words.value.trim().toLowerCase(), kind = badge ? badge.value : "";
    const [key, direction] = order.value.split("|");
    const value = face => (key === "" ? face.index : face.keys[key] ?? null);
    const sorted = [...faces].sort((a, b) => compare(value(a), value(b), direction === "down" ? -1 : 1) || a.index - b.index);
    let seen = 0;
    for (const face of sorted) {
      const kept = face.words.includes(wanted) && (!kind || face.node.dataset.badge === kind);
      face.node.classList.toggle("hidden", !kept);
      seen += kept;
      face.home.append(face.node);
    }
    told.textContent = `${seen.toLocaleString("en")} of ${faces.length.toLocaleString("en")} faces`;
  };
  words.addEventListener("input", apply);
  for (const choice of [badge, order]) choice?.addEventListener("change", apply);
  unblur.addEventListener("click", () => {
    const on = document.body.classList.toggle("unblurred");
    unblur.setAttribute("aria-pressed", on);
    if (!on) all(".look").forEach(look => look.setAttribute("aria-pressed", "false"));
  });
  apply();
}

function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * COLLATOR.compare(a, b);
}

// ---------------------------------------------------------------- all videos

const board = find("#table");
if (board) {
  const visible = columns.filter(column => !column.detail);
  const words = find("#words"), size = find("#size"), filters = all("#filters select");
  const names = columns[0].values.map(name => String(name).toLowerCase());
  const reasons = named("reason")?.values.map(reason => (reason === null ? "" : String(reason).toLowerCase()));
  const state = {by: table.sorted ?? null, direction: -1, page: 0, rows: []};
  const head = make("tr");
  for (const column of visible) {
    const cell = make("th", {scope: "col", class: column.digits === null ? "" : "n"});
    const button = make("button", {type: "button"}, column.title);
    button.addEventListener("click", () => {
      const first = column.digits === null ? 1 : -1;
      state.direction = state.by === column.title ? -state.direction : first;
      state.by = column.title;
      choose();
    });
    cell.append(button);
    column.cell = cell;
    head.append(cell);
  }
  find("thead", board).append(head);

  function choose() {
    const wanted = words.value.trim().toLowerCase();
    const kept = filters.filter(f => f.value !== "").map(f => [named(f.dataset.title).values, f.value === "–" ? null : f.value]);
    state.rows = [];
    for (let row = 0; row < count; row++) {
      const hit = names[row].includes(wanted) || (reasons && reasons[row].includes(wanted));
      if (hit && kept.every(([values, value]) => values[row] === value)) state.rows.push(row);
    }
    const by = named(state.by);
    if (by) state.rows.sort((a, b) => compare(by.values[a], by.values[b], state.direction) || a - b);
    for (const column of visible) {
      if (column === by) column.cell.setAttribute("aria-sort", state.direction > 0 ? "ascending" : "descending");
      else column.cell.removeAttribute("aria-sort");
    }
    state.page = 0;
    show();
  }

  function show() {
    const each = +size.value, pages = Math.max(1, Math.ceil(state.rows.length / each));
    state.page = Math.min(Math.max(0, state.page), pages - 1);
    const start = state.page * each, mine = state.rows.slice(start, start + each);
    const body = document.createDocumentFragment();
    for (const row of mine) {
      const line = make("tr");
      visible.forEach((column, place) => {
        const value = column.values[row];
        if (place === 0) line.append(make("th", {scope: "row"}, opener(row, value)));
        else line.append(make("td", column.digits === null ? {} : {class: "n"}, shown(column, value)));
      });
      body.append(line);
    }
    find("tbody", board).replaceChildren(body);
    const few = state.rows.length ? `${(start + 1).toLocaleString("en")} to ${(start + mine.length).toLocaleString("en")} of ` : "";
    find("#where").textContent = `${few}${state.rows.length.toLocaleString("en")} videos`;
    find("#first").disabled = find("#before").disabled = state.page === 0;
    find("#after").disabled = find("#last").disabled = state.page >= pages - 1;
    state.pages = pages;
  }

  const go = {first: () => 0, before: () => state.page - 1, after: () => state.page + 1, last: () => state.pages - 1};
  for (const [id, page] of Object.entries(go)) find(`#${id}`).addEventListener("click", () => { state.page = page(); show(); });
  words.addEventListener("input", choose);
  size.addEventListener("change", () => { state.page = 0; show(); });
  filters.forEach(filter => filter.addEventListener("change", choose));
  choose();
}
})();
