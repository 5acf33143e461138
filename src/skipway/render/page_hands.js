/* -- choosing ------------------------------------------------------------------------------------------------------ */

const layers = new Map();                 // what stands for a chosen layer
function pickRow(i) {
  if (!layers.has(i)) layers.set(i, { row: i });
  pick(layers.get(i));
}
const canPick = (item) => !item.fold && item.row > 0 && isValue(item.row) && !state.closed.has(item.row);
function pick(a) {
  state.on = state.on === a ? null : a;
  state.near = null;
  say();
  mark();
}
function mark() {
  const near = state.near && state.near.arc ? state.near.arc.arc : null;
  const row = state.near && !state.near.arc ? state.near.row : null;
  const on = state.on, lit = on !== null ? reach(on) : null;
  for (const item of shown) {
    const box = lines.get(item.key), r = item.row;
    box.classList.toggle("here", item.key === state.here);
    const off = on !== null && !item.fold && isValue(r) && !lit.has(r);
    box.classList.toggle("off", off);
    box.classList.toggle("chosen", on !== null && on.row === r && !item.fold);
    for (const line of marks.get(item.key) || []) line.classList.toggle("off", off);
    box.querySelectorAll(".chip").forEach((c) => c.classList.toggle("on", on !== null && Number(c.dataset.arc) === on.id));
  }
  const touched = row === null ? 1 : drawn.filter((l) => l.start === row || l.end === row).length;
  svg.style.setProperty("--near", touched > 24 ? "1.2px" : "3px");
  for (const l of drawn) {
    const a = l.arc, touches = a === near || (row !== null && (l.start === row || l.end === row));
    l.path.classList.toggle("on", on !== null && (a === on || l.all.includes(on)));
    l.path.classList.toggle("near", touches);
    const off = on !== null && !l.all.some(lit.uses);
    l.path.classList.toggle("off", off);
    l.tip.classList.toggle("off", off);
    if (!svg.few) {
      const wanted = touches || l.all.includes(on);
      if (wanted && !l.path.parentNode) svg.mid.append(l.path);
      else if (!wanted && l.path.parentNode) l.path.remove();
    }
  }
}

/* -- in words --------------------------------------------------------------------------------------------------- */

function say(focused) {
  const near = state.near || (state.on ? null : focused);
  detail.textContent = "";
  if (near && near.arc) detail.append(...aboutArc(near.arc.arc, near.arc.all.length));
  else if (near && near.fold) detail.append(el("h2", {}, `${num(near.fold.times)} equal blocks, ${near.fold.since} to ${near.fold.until}`), el("p", {}, "Drawn once. Enter unfolds them."));
  else if (near) detail.append(...aboutRow(near.row));
  else if (state.on) detail.append(...("row" in state.on ? aboutRow(state.on.row) : aboutArc(state.on, 1)), el("p", { class: "paths" }, through(state.on)));
  else detail.append(el("p", {}, "Point at a layer or a shortcut, click it for the paths through it. ", el("kbd", {}, "↑"), el("kbd", {}, "↓"), " layers, ", el("kbd", {}, "←"), el("kbd", {}, "→"), " fold, ", el("kbd", {}, "Enter"), " its shortcuts, ", el("kbd", {}, "Space"), " its paths, ", el("kbd", {}, "/"), " search, ", el("kbd", {}, "Esc"), " clear."));
}
function aboutRow(i) {
  const r = rows[i], out = from[i].length, inn = into[i].length, fork = r[KIND] === "fork" ? rows[last[i]] : null;
  const told = [`${r[SHAPE]}`, fork ? `${num(fork[BEFORE].length)} branches, ${fork[TITLE]} ${fork[SHAPE]}` : "", r[KIND] === "meet" ? "" : r[COUNT] ? `${num(r[COUNT])} parameters` : "no parameters", D.sources[r[SOURCE]]];
  const cuts = [inn ? `${num(inn)} shortcut${inn > 1 ? "s end" : " ends"} here` : "", out ? `${num(out)} start${out > 1 ? "" : "s"} here` : ""].filter(Boolean).join(", ");
  return [
    el("h2", {}, [r[NAME], r[KIND] === "meet" ? r[TITLE] : r[WHAT]].filter(Boolean).join(" ")),
    el("p", {}, told.filter(Boolean).join(" · ")), el("p", {}, cuts),
  ];
}
function aboutArc(a, many) {
  const s = rows[a.start], e = rows[a.end];
  const told = [`${s[NAME]} ${s[SHAPE]} → ${e[NAME]} ${e[SHAPE]}`, a.held ? `${num(a.held)} parameters` : "no parameters", a.source];
  return [el("h2", {}, `${a.name}: ${a.label}`), el("p", {}, told.join(" · ") + (many > 1 ? ` · stands for ${num(many)} shortcuts` : ""))];
}
function list(ls) {
  detail.textContent = "";
  const box = el("div", { class: "list" });
  for (const l of ls) box.append(el("button", { class: "chip", type: "button", onclick: () => pick(l.arc) }, l.arc.name));
  detail.append(el("h2", {}, `${num(ls.length)} shortcuts: ${ls[0].arc.label}`), box);
  const first = box.querySelector("button");
  if (first) first.focus();
}

/* -- search ----------------------------------------------------------------------------------------------------- */

function find() {
  const word = search.value.trim().toLowerCase();
  state.hits = [];
  state.hit = -1;
  if (word) {
    for (let i = 0; i < n; i++) {
      const r = rows[i], text = `${r[NAME] || r[TITLE]} ${r[WHAT]} ${r[SHAPE]} ${into[i].map((a) => a.label + " " + a.name).join(" ")}`;
      if (text.toLowerCase().includes(word)) state.hits.push(i);
    }
  }
  tell();
}
function tell() {
  const k = state.hits.length;
  $("found").textContent = search.value.trim() === "" ? "" : k === 0 ? "nothing found" : state.hit < 0 ? `${num(k)} found` : `${num(state.hit + 1)} of ${num(k)}`;
  const hits = new Set(state.hits);
  for (const item of shown) {
    const box = lines.get(item.key);
    box.classList.toggle("hit", !item.fold && hits.has(item.row));
    box.classList.toggle("current", !item.fold && state.hit >= 0 && item.row === state.hits[state.hit]);
  }
}
function step(by) {
  if (!state.hits.length) return;
  state.hit = (state.hit + by + state.hits.length) % state.hits.length;
  const goal = state.hits[state.hit];
  for (let by = hiddenBy(goal); by; by = hiddenBy(goal)) by.fold ? state.open.add(by.fold.id) : state.closed.delete(by.title);
  state.here = "r" + goal;
  build();
  tell();
  lines.get(state.here).scrollIntoView({ block: "center" });
  state.near = shown.find((item) => item.key === state.here);
  say();
  mark();
}

/* -- hands ------------------------------------------------------------------------------------------------------ */

function go(key) {
  const box = lines.get(key);
  lines.get(state.here).tabIndex = -1;
  box.tabIndex = 0;
  state.here = key;
  box.focus();
}
net.addEventListener("keydown", (e) => {
  const chip = e.target.closest(".chip"), item = shown.find((x) => x.key === state.here);
  if (!item) return;
  const k = shown.indexOf(item), all = [...lines.get(item.key).querySelectorAll(".chip")];
  const open = item.fold ? state.open.has(item.fold.id) : isTitle(item.row) ? !state.closed.has(item.row) : null;
  const used = true;
  if (e.key === "ArrowDown") go(shown[Math.min(k + 1, shown.length - 1)].key);
  else if (e.key === "ArrowUp") go(shown[Math.max(k - 1, 0)].key);
  else if (e.key === "Home") go(shown[0].key);
  else if (e.key === "End") go(shown[shown.length - 1].key);
  else if (chip && (e.key === "ArrowRight" || e.key === "ArrowLeft")) all[(all.indexOf(chip) + (e.key === "ArrowRight" ? 1 : all.length - 1)) % all.length].focus();
  else if (chip && (e.key === "Enter" || e.key === " ")) chip.click();
  else if (e.key === "ArrowRight" && open === false || e.key === "ArrowLeft" && open === true) flip(item);
  else if (e.key === "ArrowRight" && all.length) all[0].focus();
  else if (e.key === " " && canPick(item) && open === null) pickRow(item.row);
  else if (e.key === "Enter" || e.key === " ") {
    if (open !== null) flip(item);
    else if (all.length === 1) all[0].click();
    else if (all.length) all[0].focus();
    else if (canPick(item)) pickRow(item.row);
  }
  else return;
  if (used) e.preventDefault();
});
net.addEventListener("click", (e) => {
  const box = e.target.closest(".row");
  if (!box || e.target.closest("button")) return;
  go(box.dataset.key);
  const item = shown.find((x) => x.key === box.dataset.key);
  if (canPick(item) && !isTitle(item.row)) pickRow(item.row);
});
document.addEventListener("keydown", (e) => {
  if (e.key === "Escape") {
    state.on = state.near = null;
    if (search.value) { search.value = ""; find(); }
    if (document.activeElement === search || document.activeElement.closest("#detail, .merge")) go(state.here);
    say();
    mark();
  } else if (e.key === "/" && document.activeElement !== search) {
    e.preventDefault();
    search.focus();
  }
});
search.addEventListener("input", find);
search.addEventListener("keydown", (e) => { if (e.key === "Enter") { e.preventDefault(); step(e.shiftKey ? -1 : 1); } });
$("fold").addEventListener("click", () => {
  state.open.clear();
  rows.forEach((r, i) => { if (isTitle(i)) state.closed.add(i); });
  build();
});
$("unfold").addEventListener("click", () => { folds.forEach((f) => state.open.add(f.id)); state.closed.clear(); build(); });
$("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = getComputedStyle(root).getPropertyValue("--scheme").trim() === "dark";
  root.dataset.theme = dark ? "light" : "dark";
});
let waiting = 0;
window.addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(() => { paint(); mark(); }); });
build();
say();
