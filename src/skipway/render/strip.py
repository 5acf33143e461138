"""One line of a drawing from left to right: a chain, or a branch of one, with arches above and words below.

A strip has its own coordinates: its line is at height 0, and it says how far it reaches to each side. So branches are
strips inside a strip, as deep as one likes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .arcs import Arch, levels, rise
from .layout import joining
from .parts import Merge, Thickness, band_titles, merges, on_arc, shape, title_of
from .scene import SIGN, cut, is_bold, sign_half, text_width
from .view import Band, Cell, Limb, Link, View

LABEL = 10.5
_STEP, _STEP_LABELLED = 13.0, 25.0
_FAN = 300.0
#: between branches, and what a branch that is left out takes
BETWEEN, LEFT_OUT = 10.0, 18.0

#: words of a line: (text, kind)
Spans = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Style:
    """How words stand, the same in all strips of a drawing."""

    links: list[Link]
    number: dict[int, int]
    """The number of a link, by its ``id``."""
    thick: Thickness
    same: str
    """What every shortcut says, where that is said once."""
    turned: bool = False
    tight: bool = False

    @property
    def sign(self) -> float:
        return 6.5 if self.tight else SIGN

    @property
    def half(self) -> float:
        """Half the height of a mark on the line."""
        return 15.0 if self.turned else 18.0


@dataclass(eq=False)
class Branch:
    """A branch of a fork in its place: how far below the line of the fork, and how far right of where they begin."""

    limb: Limb
    strip: Strip | None
    y: float
    x: float = 0


@dataclass(eq=False)
class Stop:
    """A place on the line: the mark of a layer, a fork, or a merge."""

    cell: int
    merge: Merge | None
    half: float
    """Half the length of its mark."""
    room: float
    """Half the width of its column."""
    lines: list[Spans] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    up: float = 0
    """How far a fork reaches above the line, and below."""
    down: float = 0
    x: float = 0
    after: float = 0
    """Where a shortcut leaves the line after it."""
    more: float = 0
    """Room added behind, for a label above."""

    @property
    def into(self) -> float:
        """Where the line comes in, and where it goes out: they differ where it forks."""
        return self.x - self.half if self.branches else self.x

    @property
    def out(self) -> float:
        return self.x + self.half if self.branches else self.x


class Strip:
    """Places everything along one line; ``inside`` for a branch, whose input is where the line forks."""

    def __init__(self, view: View, style: Style, *, inside: bool = False) -> None:
        self.view, self.style, self.inside = view, style, inside
        self.unplaced: list[int] = []
        """Links whose words found no room."""
        self.links = [style.number[id(link)] for link in view.links]
        self._stops()
        self.natural = self._place()
        if inside:
            self.finish()

    def finish(self) -> Strip:
        """Place what is above and below, and measure."""
        self._room_for_bands()
        self._arches()
        self._labels()
        self.top = max([self.arch(i).top for i in self.links], default=self.style.half)
        self.up = max([self.top + (20 if self.label_at else 6), *(s.up + 6 for s in self.stops)])
        self.words = max([self.style.half + 4, *(self._words(s) for s in self.stops)])
        frames = [self.frame(band) for band in self.view.bands]
        self.left = min([0.0, *(left for left, *_ in frames)])
        self.right = max([self.stops[-1].after, *(right for _, right, *_ in frames)])
        self.up = max([self.up, *(top + 2 for _, _, top, _ in frames)]) if self.inside else self.up
        self.down = max([self.words + 6, *(s.down + 6 for s in self.stops), *(low + 5 for *_, low in frames)])
        return self

    def unplaced_in_all(self) -> list[int]:
        inner = [i for b in self._branches() if b.strip is not None for i in b.strip.unplaced_in_all()]
        return [*self.unplaced, *inner]

    def _branches(self) -> Iterable[Branch]:
        return (branch for stop in self.stops for branch in stop.branches)

    # -- along the line ------------------------------------------------------------------------------------------------

    def _stops(self) -> None:
        style = self.style
        self.stops: list[Stop] = []
        self.box_of: dict[int, Stop] = {}
        self.last_of: dict[int, Stop] = {}
        self.merge_of: dict[int, Stop] = {}
        for i, cell in enumerate(self.view.cells):
            if i == 0 and self.inside:
                box = Stop(i, None, 0, 0)
            elif cell.kind == "fork":
                box = self._fork(i, cell)
            else:
                box = self._upright(i, cell) if not style.turned else self._running_down(i, cell)
            self.stops.append(box)
            self.box_of[i] = self.last_of[i] = box
            for merge in merges(self.view, i, style.number):
                half = sign_half(merge.word, style.sign)
                below: list[Spans] = [((s, "gain"),) for s in merge.says]
                room = max([half, *(text_width(s, 10) / 2 for s in merge.says)])
                if style.turned:
                    below = [((" · ".join(merge.says), "gain"),)] if merge.says else []
                    room = max(half, 7.0) if below else half
                stop = Stop(i, merge, half, room + (not style.tight), below)
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
        if self.style.tight:
            return Stop(i, None, 8.0, 8.5, [(*first, (f"  {about}", "muted"))])
        return Stop(i, None, 8.0, 16.5, [first, ((about, "muted"),)])

    def _fork(self, i: int, cell: Cell) -> Stop:
        """Branches one below the other, the first of them on the line."""
        branches: list[Branch] = []
        for limb in cell.limbs:
            strip = Strip(limb.view, self.style, inside=True) if limb.view is not None else None
            before = branches[-1] if branches else None
            y = 0.0
            if before is not None:
                y = before.y + (before.strip.down if before.strip is not None else LEFT_OUT / 2) + BETWEEN
                y += strip.up if strip is not None else LEFT_OUT / 2
            branches.append(Branch(limb, strip, y))
        strips = [b.strip for b in branches if b.strip is not None]
        pad = 10.0 if self.style.turned else 14.0
        sign = sign_half(joining(cell.row.module), self.style.sign)
        words = max((text_width(left_out(b.limb), 10) for b in branches if b.strip is None), default=0.0)
        wide = max([words, *(s.right - s.left for s in strips)])
        for b in branches:
            b.x = pad + (wide - b.strip.right - b.strip.left) / 2 if b.strip is not None else pad + wide / 2
        half = wide / 2 + pad + sign / 2
        last = branches[-1]
        up = branches[0].strip.up if branches[0].strip is not None else LEFT_OUT
        down = last.y + (last.strip.down if last.strip is not None else LEFT_OUT)
        return Stop(i, None, half, half + sign + 1, [], branches, up, down)

    def _place(self) -> float:
        x = 0.0
        gap = 1.8 if self.style.tight else 5.0 if self.style.turned else 9.0
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

    def frame(self, band: Band) -> tuple[float, float, float, float]:
        """Left, right, how far up and how far down the frame of a band reaches."""
        deep = max(b.depth for b in self.view.bands)
        first, last = self.box_of[band.first], self.last_of[band.last]
        inset, wide = 5.0 * (deep - band.depth) + 1, 2.0 if self.style.turned else 4.0
        wide += min(inset, 6) * 0.5
        inside = [s for s in self.stops if band.first <= s.cell <= band.last]
        tall = max([self.style.half, *(s.up for s in inside)])
        words = max([self.words, *(s.down for s in inside)])
        stack = 5.0 if band.times > 1 and self.inside else 0.0
        left, right = first.x - first.room - wide - stack, last.x + last.room + wide
        return left, right, tall + 5 + inset + stack, words + 21 + 16 * (deep - band.depth)

    def ends(self, i: int) -> tuple[float, float]:
        """Where a shortcut leaves the line and comes back to it."""
        link = self.style.links[i]
        box = self.box_of[link.start]
        start = box.x + 4 if link.leaves_inside else box.after if link.words.tap else self.last_of[link.start].after
        end = self.box_of[link.end].x - 4 if link.ends_inside else self.merge_of[i].x
        return start, end

    def _words(self, stop: Stop) -> float:
        """How far down the words below a stop reach."""
        lines = [spans for spans in stop.lines if "".join(t for t, _ in spans)]
        if not lines:
            return 0.0
        if self.style.turned:
            long = [sum(text_width(t, size_of(stop, k), is_bold(kind)) for t, kind in s) for k, s in enumerate(lines)]
            return self.style.half + 8 + max(long)
        low = SIGN + 13 + 12 * (len(lines) - 1) if stop.merge else self.style.half + 13 + 13 * (len(lines) - 1)
        return low + 0.22 * size_of(stop, len(lines) - 1)

    # -- above the line ------------------------------------------------------------------------------------------------

    def _arches(self) -> None:
        spans = {i: self.ends(i) for i in self.links}
        found = levels(list(spans.values()))
        self.level = None if found is None else dict(zip(spans, found, strict=True))
        self.longest = max((b - a for a, b in spans.values()), default=1.0)
        self.label = {i: text for i in self.links if (text := on_arc(self.style.links[i]))}
        if self.style.same or self.level is None:
            self.unplaced = list(self.label)
            self.label = {}
        self.tops: list[float] = []
        if self.level is not None:
            top = self.style.half + 20.0
            for level in range(1 + max(self.level.values(), default=-1)):
                self.tops.append(top)
                labelled = any(self.level[i] == level for i in self.label)
                top += _STEP_LABELLED if labelled else _STEP
        self._lift(spans)

    def _lift(self, spans: dict[int, tuple[float, float]]) -> None:
        """How much higher an arch is than its level, so that it goes over the branches below it."""
        forks = [(s.x, s.up - self.style.half) for s in self.stops if s.branches and s.up > self.style.half]
        self.lift = dict.fromkeys(spans, 0.0)
        if not forks:
            return
        if self.level is None:
            self.lift = dict.fromkeys(spans, max(up for _, up in forks))
            return
        for i in sorted(spans, key=lambda i: self.level[i]):  # type: ignore[index]
            a, b = spans[i]
            over = [up for x, up in forks if a < x < b]
            under = [
                self.lift[j]
                for j, (c, d) in spans.items()
                if self.level[j] < self.level[i] and c < b and a < d
            ]  # fmt: skip
            self.lift[i] = max([0.0, *over, *under])

    def arch(self, i: int) -> Arch:
        style, link, (start, end) = self.style, self.style.links[i], self.ends(i)
        foot = style.half if link.leaves_inside else 0.0
        head = style.half + 3 if link.ends_inside else style.sign + 3
        base = style.half + 5.0 + self.lift[i]
        if self.level is not None:
            return Arch(start, end, base, self.tops[self.level[i]] + self.lift[i], foot, head)
        most = min(max(_FAN, self.longest * 0.2), 20 + self.longest * 0.42)
        return Arch(start, end, base, base + rise(end - start, self.longest, most), foot, head, whole=True)

    def _labels(self) -> None:
        """Find room above its arch for every label, and make room where there is none."""
        self.label_at: dict[int, float] = {}
        if self.level is None:
            return
        order = sorted(self.label, key=lambda i: (self.level[i], self.ends(i)))  # type: ignore[index]
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
        for j in self.links:
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


def size_of(stop: Stop, line: int) -> float:
    """The size of a line of words below a stop."""
    return 11.0 if line == 0 and not stop.merge else 10.0


def left_out(limb: Limb) -> str:
    """What stands in the place of branches that are not drawn."""
    return f"⋯ {limb.times:,} more branches"
