/* What a page shows: rows, folds, arches. page_hands.js follows in the same function. */
const D = JSON.parse(document.getElementById("data").textContent);
const [DEPTH, TITLE, WHAT, SHAPE, COUNT, KIND, SOURCE, NAME, WIDTH, FORK, WITHIN, BEFORE] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const rows = D.rows, n = rows.length;
const arcs = D.arcs.map((a, id) => ({
  id, start: a[0], end: a[1], branch: a[2] === 1, merge: D.words[a[3]], label: D.words[a[4]], held: a[5],
  source: D.sources[a[6]], name: a[7],
}));
const folds = D.folds.map((f, id) => ({ id, a: f[0], b: f[1], end: f[2], times: f[3], since: f[4], until: f[5] }));
const into = rows.map(() => []), from = rows.map(() => []);
for (const a of arcs) { into[a.end].push(a); from[a.start].push(a); }
const isTitle = (i) => ["title", "fork", "branch"].includes(rows[i][KIND]);
const isValue = (i) => !["title", "fork"].includes(rows[i][KIND]);   // a branch that is a chain begins with a value
const last = rows.map((r, i) => {          // the last row of a nested chain, or of branches
  let e = i;
  if (isTitle(i)) while (e + 1 < n && rows[e + 1][DEPTH] > r[DEPTH]) e++;
  return e;
});
const values = rows.map((r, i) => i).filter(isValue);
const after = rows.map(() => []);         // the values that read one along the chain
for (const v of values) if (v) for (const p of rows[v][BEFORE]) after[p].push(v);
const MANY = 6000, SVG = "http://www.w3.org/2000/svg";
const $ = (id) => document.getElementById(id);
const net = $("net"), detail = $("detail"), search = $("search");
const state = { closed: new Set(D.closed), open: new Set(), here: null, near: null, on: null, hits: [], hit: -1 };
if (!D.folded) folds.forEach((f) => state.open.add(f.id));
let svg, shown = [], lines = new Map(), drawn = [], marks = new Map();

function el(tag, given = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [k, v] of Object.entries(given)) {
    if (k.startsWith("on")) made.addEventListener(k.slice(2), v);
    else if (v !== null && v !== undefined && v !== false) made.setAttribute(k, v === true ? "" : v);
  }
  made.append(...inside.filter((x) => x !== null && x !== undefined));
  return made;
}
function draw(tag, given, ...inside) {
  const made = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(given)) made.setAttribute(k, v);
  made.append(...inside);
  return made;
}
const num = (x) => x.toLocaleString("en-US");
const colour = (merge) => ["add", "cat", "gate", "mul", "mean", "max", "min", "sub"].includes(merge) ? merge : "merge";

/* -- what is shown ---------------------------------------------------------------------------------------------- */

function hiddenBy(i) {                    // the closed chain or folded block that hides a row, if any
  for (const t of state.closed) if (i > t && i <= last[t]) return { title: t };
  for (const f of folds) if (!state.open.has(f.id) && i > f.b && i <= f.end) return { fold: f };
  return null;
}
function visible() {
  const gone = new Uint8Array(n);
  for (const t of state.closed) gone.fill(1, t + 1, last[t] + 1);
  for (const f of folds) if (!state.open.has(f.id)) gone.fill(1, f.b + 1, f.end + 1);
  const heads = new Map();
  for (const f of folds) if (!gone[f.a]) heads.set(f.a, [...(heads.get(f.a) || []), f]);
  const out = [];
  for (let i = 0; i < n; i++) {
    if (gone[i]) continue;
    for (const f of heads.get(i) || []) out.push({ fold: f, row: i, key: "f" + f.id });
    out.push({ row: i, key: "r" + i });
  }
  return out;
}
function twin(i) {                        // the row of the first block that a folded row stands behind
  for (let again = true; again;) {
    again = false;
    for (const f of folds) {
      if (!state.open.has(f.id) && i > f.b && i <= f.end) { i -= Math.ceil((i - f.b) / (f.b - f.a + 1)) * (f.b - f.a + 1); again = true; }
    }
  }
  return i;
}
function at(i) {                          // the shown row of a value: the outermost closed chain around it
  let found = i;
  for (const t of state.closed) if (i > t && i <= last[t] && t < found) found = t;
  return found;
}
function isFolded(i) { return twin(i) !== i; }

function links() {                        // drawn shortcuts, each with all those it stands for
  const found = new Map();
  for (const a of arcs) {
    const end = twin(a.end), k = into[a.end].indexOf(a), first = end === a.end ? a : into[end][k];
    const s = at(twin(first.start)), e = at(first.end);
    if (s === e) continue;
    const hides = (t, i) => isTitle(t) && i !== t && last[t] !== i;
    const loose = hides(s, twin(first.start)) || hides(e, first.end);
    const key = loose ? `${s},${e},${first.label}` : "" + first.id;
    if (!found.has(key)) found.set(key, { arc: first, start: s, end: e, loose, all: [] });
    found.get(key).all.push(a);
  }
  return [...found.values()];
}

/* -- building --------------------------------------------------------------------------------------------------- */

function build() {
  const focus = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.key : null;
  shown = visible();
  drawn = links();
  const ends = new Map();
  for (const l of drawn) if (!l.loose) ends.set(l.end, [...(ends.get(l.end) || []), l]);
  net.textContent = "";
  lines = new Map();
  const all = document.createDocumentFragment();
  for (const item of shown) {
    item.merges = item.fold ? [] : grouped(ends.get(item.row) || []);
    const made = item.fold ? foldRow(item) : layerRow(item);
    made.addEventListener("mouseenter", () => { state.near = item; say(); mark(); });
    made.addEventListener("mouseleave", () => { state.near = null; say(); mark(); });
    made.addEventListener("focus", () => { state.here = item.key; say(item); mark(); });
    lines.set(item.key, made);
    all.append(made);
  }
  svg = draw("svg", { id: "arcs", "aria-hidden": "true" });
  net.append(all, svg);
  if (!lines.has(state.here)) state.here = shown[0].key;
  lines.get(state.here).tabIndex = 0;
  paint();
  if (focus && lines.has(focus)) lines.get(focus).focus({ preventScroll: true });
  mark();
}
function grouped(ends) {                  // neighbouring shortcuts that merge alike share a sign
  const out = [];
  for (const l of ends) {
    const before = out[out.length - 1];
    if (before && before[0].arc.merge === l.arc.merge && !l.arc.label.includes("then ")) before.push(l);
    else out.push([l]);
  }
  return out;
}
function layerRow(item) {
  const r = rows[item.row], title = isTitle(item.row), closed = state.closed.has(item.row);
  const made = el("div", {
    class: "row" + (title ? " title" : "") + (r[FORK] || r[KIND] === "meet" ? " limb" : ""), role: "treeitem", tabindex: -1, "data-key": item.key, "data-row": item.row,
    style: `--depth:${r[DEPTH]}`, "aria-level": r[DEPTH] + 1, "aria-expanded": title ? String(!closed) : null,
    "aria-label": [r[TITLE], r[WHAT], r[SHAPE], r[COUNT] ? num(r[COUNT]) + " parameters" : ""].filter(Boolean).join(", "),
  });
  const count = el("span", { class: "count" }, r[COUNT] ? num(r[COUNT]) : "");
  if (title) {
    const turn = el("button", { class: "turn", type: "button", tabindex: -1, "aria-label": closed ? "unfold" : "fold", onclick: () => flip(item) }, closed ? "▸" : "▾");
    const held = closed ? values.filter((v) => v > item.row && v <= last[item.row] && !["branch", "meet"].includes(rows[v][KIND])).length : 0;
    const inside = closed ? ` · ${num(held)} layer${held === 1 ? "" : "s"}` : "";
    made.append(el("div", { class: "line" }, el("span", { class: "name" }, turn, " ", el("b", {}, r[TITLE]), " ", r[WHAT] === "Chain" ? "" : r[WHAT], inside), count));
  } else {
    const index = /^\d+$/.test(r[TITLE]) || r[KIND] === "input" || r[KIND] === "meet";
    made.append(el("div", { class: "line" }, el("span", { class: "name" + (index ? " index" : "") }, r[TITLE]), el("span", { class: "what" }, r[WHAT]), el("span", { class: "shape" }, r[SHAPE]), count));
  }
  for (const merge of item.merges) made.append(chips(merge));
  return made;
}
function chips(merge) {
  const by = new Map();
  for (const l of merge) by.set(l.arc.label, [...(by.get(l.arc.label) || []), l]);
  const box = el("div", { class: "merge" });
  for (const [label, ls] of by) {
    const held = ls[0].arc.held ? ` (${num(ls[0].arc.held)})` : "";
    const chip = el("button", {
      class: "chip", type: "button", tabindex: -1, "data-arc": ls[0].arc.id, style: `color:var(--l-${colour(ls[0].arc.merge)})`,
      onclick: (e) => { e.stopPropagation(); ls.length === 1 ? pick(ls[0].arc) : list(ls); },
    }, label + held + (ls.length > 1 ? ` ×${ls.length}` : ""));
    box.append(chip);
  }
  return box;
}
function foldRow(item) {
  const f = item.fold, open = state.open.has(f.id), depth = rows[f.a][DEPTH];
  const turn = el("button", { class: "turn", type: "button", tabindex: -1, "aria-label": open ? "fold" : "unfold", onclick: () => flip(item) }, open ? "▾" : "▸");
  return el("div", {
    class: "row fold", role: "treeitem", tabindex: -1, "data-key": item.key, "data-fold": f.id, style: `--depth:${depth}`,
    "aria-expanded": String(open), "aria-label": `${f.times} times, ${f.since} to ${f.until}`,
  }, el("div", { class: "line" }, el("span", { class: "name index" }, turn, " ", el("b", {}, "×" + num(f.times)), ` ${f.since} to ${f.until}`)));
}
function flip(item) {
  if (item.fold) toggle(state.open, item.fold.id);
  else if (isTitle(item.row)) toggle(state.closed, item.row);
  else return;
  state.here = item.key;
  build();
  lines.get(item.key).focus({ preventScroll: true });
}
const toggle = (set, x) => set.has(x) ? set.delete(x) : set.add(x);

/* -- arches ----------------------------------------------------------------------------------------------------- */

function tracks() {                       // where the lines of chains and branches run, the innermost on the left
  const narrow = net.clientWidth < 640, deepest = Math.max(0, ...shown.map((x) => (x.fold ? 0 : rows[x.row][FORK])));
  const tight = narrow && deepest > 2;    // many branches in branches on a phone
  const rail = (k) => (narrow ? 10 + (tight ? 4 : 6) * (k - 1) : 18 + 10 * (k - 1)), x = [], room = [];
  let at = deepest ? rail(deepest) + (tight ? 11 : narrow ? 14 : 16) : 18;
  for (let k = deepest; k >= 0; k--) {
    x[k] = at;
    room[k] = drawn.some((l) => rows[l.start][FORK] === k) ? (tight ? 19 : narrow ? 26 : 44) : (tight ? 13 : narrow ? 16 : 24);
    at += room[k];
  }
  return { x, rail, room, narrow };
}
function paint() {
  const { x: line, rail, room, narrow } = tracks(), more = line[0] - 18;
  const depth = Math.max(1, ...shown.filter((x) => !x.fold).map((x) => rows[x.row][DEPTH]));
  net.style.setProperty("--step", `${Math.min(0.7, 4 / depth)}rem`);
  const wide = Math.max(narrow && more > 100 ? 40 : 56, Math.min(260, (net.clientWidth - more) * (narrow && more ? 0.16 : 0.26)));
  net.style.setProperty("--beside", `${wide + 40 + more}px`);
  svg.textContent = "";
  svg.setAttribute("width", wide + 36 + more);
  svg.setAttribute("height", net.scrollHeight);
  const spots = new Map(), splits = new Map();
  marks = new Map();
  let bottom = 0, end = null;
  const back = draw("g", {}), front = draw("g", {}), mid = draw("g", {}), touch = draw("g", {});
  const widths = values.map((v) => rows[v][WIDTH]).filter(Boolean);
  const low = Math.log(Math.max(1, Math.min(...widths, Infinity))), high = Math.log(Math.max(1, ...widths));
  const thick = (w, a, b) => high > low && w ? a + (b - a) * (Math.log(w) - low) / (high - low) : a + (b - a) / 3;
  const spine = (key, d, width) => {
    const path = draw("path", { class: "spine", d, "stroke-width": width });
    back.append(path);
    marks.set(key, [...(marks.get(key) || []), path]);
  };
  const spotOf = (i) => spots.get(at(twin(i)));
  for (const item of shown) {
    if (item.fold) continue;
    const box = lines.get(item.key), r = rows[item.row], top = box.offsetTop;
    const head = box.firstElementChild.offsetHeight, closed = state.closed.has(item.row);
    const open = isTitle(item.row) && !closed, y = top + head / 2, x = line[r[FORK]];
    if (open && r[KIND] === "fork") splits.set(item.row, y);
    if (open && r[KIND] !== "branch") continue;
    const w = thick(r[WIDTH] || rows[last[item.row]][WIDTH], 10, 22), tall = r[KIND] === "input" ? 6 : 13;
    const kind = closed ? "closed" : r[KIND];
    const spot = { key: item.key, x, y, out: top + box.offsetHeight + 1, branch: top + head, signs: new Map() };
    if (kind === "meet") front.append(sign(x, y, r[TITLE]));
    else if (!open) front.append(draw("rect", { class: "mark", x: x - w / 2, y: y - tall / 2, width: w, height: tall, rx: 3, style: `fill:var(--${kind}-fill);stroke:var(--${kind}-line)` }));
    if (!item.merges.length) spot.out = top + head + 1;
    item.merges.forEach((merge, k) => {
      const sy = top + head + 24 * k + 11;
      for (const l of merge) spot.signs.set(l, sy);
      front.append(sign(x, sy, merge[0].arc.merge));
    });
    spot.width = thick(r[WIDTH] || rows[last[item.row]][WIDTH], 2, narrow && more ? 4 : 6);
    const found = [...new Set(item.row ? r[BEFORE].map(spotOf) : [])];
    if (open) spot.width = found[0].width;
    for (const p of found) {
      const enters = r[WITHIN] >= 0 && p.x > x;
      if (p.x < x) spine(p.key, `M${p.x} ${p.y}V${p.out}H${x}V${y}`, p.width);
      else if (enters) spine(item.key, `M${p.x} ${p.y}V${splits.get(r[WITHIN])}H${rail(r[FORK])}V${y}H${x}`, p.width);
      else spine(item.key, `M${x} ${p.y}V${y}`, p.width);
    }
    spots.set(item.row, spot);
    bottom = spot.out;
    end = spot;
  }
  if (end) {                              // through the last merges, and out
    back.append(draw("path", { class: "spine", d: `M${end.x} ${end.y}V${bottom + 4}`, "stroke-width": end.width }));
    front.append(draw("path", { class: "exit", d: `M${end.x} ${bottom + 11}l-5 -8h10z` }));
  }
  const spans = drawn.map((l) => spots.get(l.end).y - spots.get(l.start).y), most = Math.max(1, ...spans);
  const few = drawn.length <= MANY;
  drawn.forEach((l, k) => {
    const s = spots.get(l.start), e = spots.get(l.end);
    const y1 = l.loose && l.start !== twin(l.arc.start) ? s.y + 3 : l.arc.branch ? s.branch : s.out;
    const inner = rows[l.start][FORK], limit = inner ? Math.max(3, room[inner] - 19) : wide;
    const y2 = e.signs.get(l) ?? e.y - 3, reach = Math.min(12 + (wide - 14) * Math.pow(spans[k] / most, 0.55), 16 + spans[k] * 0.45, limit);
    const x1 = s.x, x2 = s.x + (e.signs.has(l) ? 10 : 12), base = s.x + 14, x = base + reach, m = (y1 + y2) / 2, c = 0.5523;
    l.d = `M${x1} ${y1}H${base}C${base + c * reach} ${y1} ${x} ${m - c * (m - y1)} ${x} ${m}C${x} ${m + c * (y2 - m)} ${base + c * reach} ${y2} ${base} ${y2}H${x2}`;
    l.path = draw("path", {
      class: "arc" + (l.loose ? " loose" : ""), d: l.d, "data-arc": l.arc.id,
      style: `stroke:var(--l-${colour(l.arc.merge)});stroke-width:${drawn.length > 2000 ? 0.4 : drawn.length > 300 ? 0.8 : 1.6}px`,
    });
    l.tip = draw("path", { class: "tip", d: `M${x2 - 1} ${y2}l6 -3.2v6.4z`, style: `fill:var(--l-${colour(l.arc.merge)})` });
    mid.append(...(few ? [l.path, l.tip] : [l.tip]));
    if (drawn.length <= 1500) {
      const hit = draw("path", { class: "hit", d: l.d, "data-arc": l.arc.id });
      hit.addEventListener("mouseenter", () => { state.near = { arc: l }; say(); mark(); });
      hit.addEventListener("mouseleave", () => { state.near = null; say(); mark(); });
      hit.addEventListener("click", () => pick(l.arc));
      touch.append(hit);
    }
  });
  svg.append(back, mid, front, touch);
  svg.few = few;
  svg.mid = mid;
}
function sign(x, y, word) {
  const strokes = D.signs[word];
  if (!strokes) {
    const text = word.length > 9 ? word.slice(0, 8) + "…" : word, half = Math.max(9, text.length * 2.9 + 5);
    return draw("g", { class: "sign" }, draw("rect", { x: x - half, y: y - 8, width: 2 * half, height: 16, rx: 8 }), draw("text", { x, y: y + 3 }, text));
  }
  const d = strokes.map((s) => "M" + s.map(([a, b]) => `${x + 8 * a} ${y + 8 * b}`).join("L")).join("");
  return draw("g", { class: "sign" }, draw("circle", { cx: x, cy: y, r: 8 }), draw("path", { d }));
}
