/* -- paths through a shortcut or a layer ------------------------------------------------------------------------- */

let counted = null;
function count() {                        // how many paths lead to every value, and on from it
  if (counted || arcs.length > 60000) return counted;
  const to = Array(n).fill(0n), on = Array(n).fill(0n);        // to a value, and on from it
  const made = Array(n).fill(0n), through = Array(n).fill(0n); // the same of what its layer puts out, before its merges
  for (const v of values) {
    made[v] = v ? rows[v][BEFORE].reduce((sum, p) => sum + to[p], 0n) : 1n;
    to[v] = made[v];
    for (const a of into[v]) to[v] += a.branch && a.start ? made[a.start] : to[a.start];
  }
  const end = values[values.length - 1];
  for (const v of [...values].reverse()) {
    on[v] = v === end ? 1n : after[v].reduce((sum, next) => sum + through[next], 0n);
    for (const a of from[v]) if (!a.branch || v === 0) on[v] += on[a.end];
    through[v] = on[v];
    for (const a of from[v]) if (a.branch && v) through[v] += on[a.end];
  }
  return (counted = { to, on, made, through, all: to[end] });
}
function through(on) {
  const c = count();
  if (!c) return "";
  const here = "row" in on ? c.made[on.row] * c.through[on.row] : (on.branch && on.start ? c.made : c.to)[on.start] * c.on[on.end];
  return `${long(here)} of ${long(c.all)} paths from the input to the output ${here === 1n ? "goes" : "go"} through it.`;
}
function long(x) {
  const text = x.toString();
  return text.length > 15 ? `about ${text[0]}.${text.slice(1, 3)}·10^${text.length - 1}` : num(Number(x));
}
function closure(starts, next) {
  const found = new Set(starts), left = [...starts];
  while (left.length) for (const v of next(left.pop())) if (!found.has(v)) { found.add(v); left.push(v); }
  return found;
}
const above = (starts) => closure(starts, (v) => [...(v ? rows[v][BEFORE] : []), ...into[v].map((a) => a.start)]);
const below = (v) => closure([v], (u) => [...after[u], ...from[u].map((a) => a.end)]);

let chosen = null;
function reach(on) {                      // what lies on a path through a shortcut or a layer: its layers and its shortcuts
  if (chosen && chosen.on === on) return chosen;
  const layer = "row" in on, end = layer ? on.row : on.end;
  const up = above(layer ? rows[on.row][BEFORE] : [on.start]), down = below(end);
  const made = (v) => v !== end && down.has(v) && rows[v][BEFORE].some((p) => down.has(p));   // not only merged into
  const has = (v) => up.has(v) || (layer && v === on.row) || made(v);
  const uses = (a) => a === on || (up.has(a.end) && !(a.end === on.start && on.branch))
    || (down.has(a.start) && (!a.branch || made(a.start) || (layer && a.start === end)));
  return (chosen = { on, has, uses });
}
