"""A drawing from left to right: the chain is a line, the shortcuts arches above it, the words below."""

from __future__ import annotations

from dataclasses import dataclass, field

from .arcs import Arch, levels, rise
from .fold import Cell, View
from .legend import add_legend, add_title
from .parts import (
    Merge,
    Thickness,
    arc_look,
    arriving,
    band_title,
    band_titles,
    category,
    common,
    leaving,
    merges,
    on_arc,
    shape,
    tips,
    title_of,
)  # fmt: skip
from .scene import (
    SIGN,
    Box,
    Line,
    Rect,
    Ref,
    Scene,
    Sign,
    Step,
    Text,
    arrow,
    cut,
    is_bold,
    sign_half,
    text_width,
)  # fmt: skip

#: a drawing whose words stand upright may be as wide as this; wider ones turn them, and then say all in one line
ROOMY = 1240
LOOSE = 2400
LABEL = 10.5
_STEP, _STEP_LABELLED = 13.0, 25.0
_FAN = 300.0


#: words of a line: (text, kind)
Spans = tuple[tuple[str, str], ...]


@dataclass(eq=False)
class Stop:
    """A place on the line: the mark of a layer, or a merge."""

    cell: int
    merge: Merge | None
    half: float
    """Half the length of its mark."""
    room: float
    """Half the width of its column."""
    lines: list[Spans] = field(default_factory=list)
    x: float = 0
    after: float = 0
    """Where a shortcut leaves the line after it."""
    more: float = 0
    """Room added behind, for a label above."""


class Horizontal:
    """Places everything; :attr:`scene` is the outcome."""

    def __init__(self, view: View, title: list[tuple[str, str]], *, legend: bool = True) -> None:
        self.view = view
        self.number = {id(link): i for i, link in enumerate(view.links)}
        self.thick = Thickness(view)
        self.scene = Scene(tips=tips(view))
        self.unplaced: list[int] = []
        self.turned = self.tight = False
        self.sign = SIGN
        self._stops()
        if self._place() > ROOMY:
            self.turned = True
            self._stops()
        if self._place() > LOOSE:
            self.tight, self.sign = True, 6.5
            self._stops()
            self._place()
        self._room_for_bands()
        self.half = 15.0 if self.turned else 18.0
        self._arches()
        self._labels()
        self._draw()
        if legend:
            add_legend(self.scene, view, self.unplaced, short=self.turned)
        add_title(self.scene, title)

    # -- along the line ------------------------------------------------------------------------------------------------

    def _stops(self) -> None:
        self.stops: list[Stop] = []
        self.box_of: dict[int, Stop] = {}
        self.last_of: dict[int, Stop] = {}
        self.merge_of: dict[int, Stop] = {}
        for i, cell in enumerate(self.view.cells):
            box = self._upright(i, cell) if not self.turned else self._running_down(i, cell)
            self.stops.append(box)
            self.box_of[i] = self.last_of[i] = box
            for merge in merges(self.view, i, self.number):
                half = sign_half(merge.word, self.sign)
                below: list[Spans] = [((s, "gain"),) for s in merge.says]
                room = max([half, *(text_width(s, 10) / 2 for s in merge.says)])
                if self.turned:
                    below = [((" · ".join(merge.says), "gain"),)] if merge.says else []
                    room = max(half, 7.0) if below else half
                stop = Stop(i, merge, half, room + (not self.tight), below)
                self.stops.append(stop)
                self.last_of[i] = stop
                self.merge_of.update(dict.fromkeys(merge.links, stop))

    def _upright(self, i: int, cell: Cell) -> Stop:
        lines: list[Spans] = [((cell.shape, "muted"),)]
        half = text_width(cut(cell.what, 11, 230) or cell.title, 11) / 2 + 9
        if cell.kind != "input":
            lines.insert(0, (title_of(cell),))
            lines += [((f"{cell.count:,} parameters", "muted"),)] if cell.count else []
        room = max([half, *(text_width(t, 11, is_bold(k)) / 2 for line in lines for t, k in line)])
        return Stop(i, None, half, room + 2, lines)

    def _running_down(self, i: int, cell: Cell) -> Stop:
        name, told = title_of(cell), (cut(cell.what, 11, 230), "what")
        about = " · ".join([shape(cell.shape), *([f"{cell.count:,}"] if cell.count else [])])
        first: Spans = ((name[0] + "  ", name[1]), told) if cell.kind != "gap" else (told,)
        if self.tight:
            return Stop(i, None, 8.0, 8.5, [(*first, (f"  {about}", "muted"))])
        return Stop(i, None, 8.0, 16.5, [first, ((about, "muted"),)])

    def _place(self) -> float:
        x = 0.0
        gap = 1.8 if self.tight else 5.0 if self.turned else 9.0
        for stop in self.stops:
            stop.x = x + stop.room
            stop.after = stop.x + stop.room + gap
            x = stop.after + gap + stop.more
        return x

    def _room_for_bands(self) -> None:
        """Widen what is in a band until its name fits below."""
        for band in sorted(self.view.bands, key=lambda b: -b.depth):
            inside = [s for s in self.stops if band.first <= s.cell <= band.last]
            need = sum(text_width(cut(t, 10, 110, True), 10, True) for t, _ in band_titles(band)[-1]) + 12
            have = inside[-1].x + inside[-1].room - inside[0].x + inside[0].room
            for stop in inside if need > have else ():
                stop.room += (need - have) / 2 / len(inside)
            self._place()

    def _ends(self, i: int) -> tuple[float, float]:
        """Where a shortcut leaves the line and comes back to it."""
        link = self.view.links[i]
        box = self.box_of[link.start]
        start = box.x + 4 if link.leaves_inside else box.after if link.words.tap else self.last_of[link.start].after
        end = self.box_of[link.end].x - 4 if link.ends_inside else self.merge_of[i].x
        return start, end

    # -- above the line ------------------------------------------------------------------------------------------------

    def _arches(self) -> None:
        spans = [self._ends(i) for i in range(len(self.view.links))]
        self.level = levels(spans)
        self.longest = max((b - a for a, b in spans), default=1.0)
        same = common(self.view)
        self.label = {i: on_arc(link) for i, link in enumerate(self.view.links)}
        if same or self.level is None:
            self.unplaced = [i for i, text in self.label.items() if text]
            self.label = {}
        self.label = {i: text for i, text in self.label.items() if text}
        self.tops: list[float] = []
        if self.level is not None:
            top = self.half + 20.0
            for level in range(1 + max(self.level, default=-1)):
                self.tops.append(top)
                labelled = any(self.level[i] == level for i in self.label)
                top += _STEP_LABELLED if labelled else _STEP

    def arch(self, i: int) -> Arch:
        link, (start, end) = self.view.links[i], self._ends(i)
        foot = self.half if link.leaves_inside else 0.0
        head = self.half + 3 if link.ends_inside else self.sign + 3
        base = self.half + 5.0
        if self.level is not None:
            return Arch(start, end, base, self.tops[self.level[i]], foot, head)
        most = min(max(_FAN, self.longest * 0.2), 20 + self.longest * 0.42)
        return Arch(start, end, base, base + rise(end - start, self.longest, most), foot, head, whole=True)

    def _labels(self) -> None:
        """Find room above its arch for every label, and make room where there is none."""
        self.label_at: dict[int, float] = {}
        if self.level is None:
            return
        order = sorted(self.label, key=lambda i: (self.level[i], self._ends(i)))  # type: ignore[index]
        for _ in range(6 * len(order) + 1):
            missing = next((i for i in order if not self._fits(i)), None)
            if missing is None:
                return
            self._place()
        for i in order:
            if not self._fits(i):
                self.unplaced.append(i)
                self.label_at.pop(i, None)

    def _fits(self, i: int) -> bool:
        """Place one label; where that fails, widen the line below it and say so."""
        need = text_width(self.label[i], LABEL) + 6
        me = self.arch(i)
        low, high = me.top + 2, me.top + 18
        # pieces of other arches at that height, each with the place on the line that moves it
        blocked = [(me.start, me.start, me.start), (me.end, me.end, me.end)]
        for j in range(len(self.view.links)):
            if j == i:
                continue
            other = self.arch(j)
            for (a, b), foot in zip(other.legs(low, high), (other.start, other.end), strict=False):
                if b > me.start and a < me.end:
                    blocked.append((a - 3, b + 3, foot))
        blocked.sort()
        free, edge = [], blocked[0]
        for block in blocked[1:]:
            if block[0] > edge[1]:
                free.append((edge[1], block[0], edge[2], block[2]))
            if block[1] >= edge[1]:
                edge = block
        middle = (me.start + me.end) / 2
        fitting = [f for f in free if f[1] - f[0] >= need]
        if fitting:
            a, b, *_ = min(fitting, key=lambda f: abs(min(max(middle, f[0] + need / 2), f[1] - need / 2) - middle))
            self.label_at[i] = min(max(middle, a + need / 2), b - need / 2)
            return True
        places = [(f, s) for f in free for s in self.stops if f[2] <= s.after + 0.01 and s.after < f[3]]
        if not places:
            places = [((me.start, me.start, 0, 0), s) for s in self.stops if me.start <= s.after + 0.01 < me.end]
        a, b, *_ = max(places, key=lambda p: p[0][1] - p[0][0])[0]
        here = [s for f, s in places if f[0] == a and f[1] == b]
        for stop in here:  # evenly, so that no layer stands apart
            stop.more += (need - (b - a) + 1) / len(here)
        return False

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        arches = [self.arch(i) for i in range(len(self.view.links))]
        self.y = max([a.top for a in arches], default=self.half) + (20 if self.label_at else 6)
        self._spine()
        for i, arch in enumerate(arches):
            self._arc(i, arch)
        bottom = self._words()
        bottom = self._bands(bottom)
        self.scene.width = max(s.after for s in self.stops) + 8
        self.scene.height = bottom

    def _spine(self) -> None:
        for stop, following in zip(self.stops, [*self.stops[1:], None], strict=True):
            cell = self.view.cells[stop.cell]
            width = leaving(cell) if stop is self.last_of[stop.cell] else arriving(cell)
            end = following.x if following is not None else stop.after + 6
            steps: tuple[Step, ...] = (("M", stop.x, self.y), ("L", end, self.y))
            self.scene.lines.append(Line(steps, "spine", self.thick(width), ("row", stop.cell)))
        self.scene.lines.append(arrow(self.stops[-1].after + 13, self.y, "right", "spine head"))

    def _arc(self, i: int, arch: Arch) -> None:
        link, ref = self.view.links[i], ("arc", i)
        kind, width = arc_look(self.view, link, self.thick, self.level is not None)
        self.scene.lines.append(Line(tuple(self._turn(step) for step in arch.steps()), kind, width, ref))
        merge = None if link.ends_inside else self.merge_of[i].merge
        if self.level is not None or merge is None or merge.links[-1] == i:  # one head where many come in
            tip = self.y - arch.head + 2.5
            self.scene.lines.append(arrow(arch.end, tip, "down", f"arc {link.words.merge} head", ref))
        if i in self.label_at:
            spans = ((self.label[i], f"label {link.words.merge}"),)
            self.scene.texts.append(Text(self.label_at[i], self.y - arch.top - 6, spans, LABEL, "middle", ref=ref))

    def _turn(self, step: Step) -> Step:
        kind, *at = step
        turned = [a if k % 2 == 0 else self.y - a for k, a in enumerate(at)]
        return (kind, *(round(a, 1) for a in turned))

    def _words(self) -> float:
        """Marks on the line, and the words below; returns how far down they reach."""
        low = self.y + self.half + 4
        for stop in self.stops:
            cell, ref = self.view.cells[stop.cell], ("row", stop.cell)
            if stop.merge is not None:
                self.scene.signs.append(Sign(stop.x, self.y, stop.merge.word, ref, self.sign))
            else:
                self._mark(stop, category(cell), ref)
            lines = [spans for spans in stop.lines if "".join(t for t, _ in spans)]
            for k, spans in enumerate(lines):
                size = 11.0 if k == 0 and not stop.merge else 10.0
                if self.turned:  # the second line of words that run downwards is on the left
                    x = stop.x - 3.5 if len(lines) == 1 else stop.x + (2.5, -9.5)[k]
                    text = Text(x, low + 4, spans, size, "start", True, ref)
                else:
                    y = self.y + SIGN + 13 + 12 * k if stop.merge else low + 9 + 13 * k
                    text = Text(stop.x, y, spans, size, "middle", False, ref)
                self.scene.texts.append(text)
        return max([low, *(t.box.bottom for t in self.scene.texts)])

    def _mark(self, stop: Stop, kind: str, ref: Ref) -> None:
        """The layer on the line: a box with its kind, or a small one where the words run down."""
        cell = self.view.cells[stop.cell]
        if self.turned:
            tall = self.thick(arriving(cell), 12, 2 * self.half - 4)
            wide = {"weights": 16.0, "closed": 16.0, "gap": 16.0, "act": 9.0, "input": 6.0}.get(kind, 12.0)
            box, radius = Box(stop.x - wide / 2, self.y - tall / 2, wide, tall), 3
        else:
            tall, radius = (24.0, 12) if kind == "input" else (2 * self.half, 6)
            box = Box(stop.x - stop.half, self.y - tall / 2, 2 * stop.half, tall)
            told = "input" if kind == "input" else cut(cell.what, 11, 230)
            self.scene.texts.append(Text(stop.x, self.y + 4, ((told, "what"),), 11, "middle", ref=ref))
        self.scene.rects.append(Rect(box, kind, radius, ref))

    def _bands(self, bottom: float) -> float:
        """Frames behind what belongs together, the name of each below it; returns how far down they reach."""
        bands = self.view.bands
        if not bands:
            return bottom + 6
        deep = max(b.depth for b in bands)
        shapes = []
        for i, band in enumerate(bands):
            first, last = self.box_of[band.first], self.last_of[band.last]
            inset, wide = 5.0 * (deep - band.depth) + 1, 2.0 if self.turned else 4.0
            wide += min(inset, 6) * 0.5
            left, right = first.x - first.room - wide, last.x + last.room + wide
            top, low = self.y - self.half - 5 - inset, bottom + 21 + 16 * (deep - band.depth)
            for back in (5.0, 2.5) if band.times > 1 else ():  # a stack of cards
                box = Box(left + back, top - back, right - left, low - top)
                shapes.append(Rect(box, "stack", 8, ("band", i)))
            kind = f"band {'repeat' if band.times > 1 else 'plain'} d{band.depth % 2}"
            shapes.append(Rect(Box(left, top, right - left, low - top), kind, 8, ("band", i)))
            spans = band_title(band, right - left - 10)
            self.scene.texts.append(Text(left + 5, low - 4.5, spans, 10, ref=("band", i)))
        self.scene.rects = shapes + self.scene.rects
        return bottom + 26 + 16 * deep
