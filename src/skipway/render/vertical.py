"""A drawing from top to bottom: a row a layer as in ``print(net)``, the shortcuts arches on the right of the line."""

from __future__ import annotations

from dataclasses import dataclass

from .arcs import Arch, levels, rise
from .fold import Band, View
from .legend import add_legend, add_title
from .parts import (
    Merge,
    Thickness,
    arc_look,
    arriving,
    band_title,
    category,
    common,
    leaving,
    merges,
    on_arc,
    tips,
    title_of,
)  # fmt: skip
from .scene import SIGN, Box, Line, Rect, Scene, Sign, Step, Text, arrow, cut, is_bold, text_width

ROW, LINE, INDENT = 23.0, 13.0, 14.0
_STEP = 11.0
_FAN = 240.0


@dataclass(eq=False)
class Stop:
    """A row: a layer, or a merge with the words beside it."""

    cell: int
    merge: Merge | None
    notes: list[tuple[int, str]]
    """What stands right of the arches, each with a link it is about."""
    y: float = 0
    after: float = 0


class Vertical:
    """Places everything; :attr:`scene` is the outcome."""

    def __init__(self, view: View, title: list[tuple[str, str]], *, legend: bool = True) -> None:
        self.view = view
        self.number = {id(link): i for i, link in enumerate(view.links)}
        self.thick = Thickness(view)
        self.scene = Scene(tips=tips(view))
        self.same = common(view)
        self._rows()
        self._columns()
        self._arches()
        self._draw()
        if legend:
            add_legend(self.scene, view, range(len(view.links)) if self.same else [])
        add_title(self.scene, title)

    # -- down the line -------------------------------------------------------------------------------------------------

    def _rows(self) -> None:
        self.stops: list[Stop] = []
        self.box_of: dict[int, Stop] = {}
        self.last_of: dict[int, Stop] = {}
        self.merge_of: dict[int, Stop] = {}
        self.titles: list[tuple[Band, float]] = []
        y = 0.0
        for i in range(len(self.view.cells)):
            for band in self.view.bands:
                if band.first == i:
                    self.titles.append((band, y + 5))
                    y += ROW
            box = Stop(i, None, [], y + ROW / 2)
            y += ROW
            box.after = y + 1
            self.stops.append(box)
            self.box_of[i] = self.last_of[i] = box
            for merge in merges(self.view, i, self.number):
                notes = self._notes(merge)
                stop = Stop(i, merge, notes, y + ROW / 2)
                y += max(ROW, LINE * len(notes) + 8)
                stop.after = y + 1
                self.stops.append(stop)
                self.last_of[i] = stop
                self.merge_of.update(dict.fromkeys(merge.links, stop))
            y += 4
            y += 5 * sum(band.last == i for band in self.view.bands)
        self.long = y

    def _notes(self, merge: Merge) -> list[tuple[int, str]]:
        found: dict[str, list[int]] = {}
        for link in merge.links:
            text = on_arc(self.view.links[link])
            if text and not self.same:
                found.setdefault(text, []).append(link)
        return [(links[0], text + (f", {len(links)} times" if len(links) > 1 else "")) for text, links in found.items()]

    def _columns(self) -> None:
        cells = self.view.cells

        def widest(texts: list[str], size: float, bold: bool, most: float) -> float:
            return min(most, max((text_width(t, size, bold) for t in texts), default=0))

        self.name = widest([c.title for c in cells], 11, True, 150) + INDENT * max((c.depth for c in cells), default=0)
        says = ["   ".join([s.merge.word, *s.merge.says]) for s in self.stops if s.merge]
        self.what = self.name + 16
        self.shape = self.what + widest([c.what for c in cells] + says, 11, False, 240) + 18
        self.count = self.shape + widest([c.shape for c in cells], 10, False, 200) + 18
        self.count += widest([f"{c.count:,}" for c in cells], 10, False, 100)
        self.x = self.count + 36

    # -- beside the line -----------------------------------------------------------------------------------------------

    def _ends(self, i: int) -> tuple[float, float]:
        link = self.view.links[i]
        box = self.box_of[link.start]
        start = box.y + 3 if link.leaves_inside else box.after if link.words.tap else self.last_of[link.start].after
        end = self.box_of[link.end].y - 3 if link.ends_inside else self.merge_of[i].y
        return start, end

    def _arches(self) -> None:
        spans = [self._ends(i) for i in range(len(self.view.links))]
        self.level = levels(spans)
        self.longest = max((b - a for a, b in spans), default=1.0)

    def arch(self, i: int) -> Arch:
        link, (start, end) = self.view.links[i], self._ends(i)
        foot, head = (13.0 if link.leaves_inside else 0.0), (16.0 if link.ends_inside else SIGN + 3)
        base = 17.0
        if self.level is not None:
            return Arch(start, end, base, base + 12 + _STEP * self.level[i], foot, head)
        most = min(_FAN, 20 + self.longest * 0.42)
        return Arch(start, end, base, base + rise(end - start, self.longest, most), foot, head, whole=True)

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        arches = [self.arch(i) for i in range(len(self.view.links))]
        self.right = self.x + max([a.top for a in arches], default=10) + 10
        for band, y in self.titles:
            self._band(band, y)
        self._spine()
        for i, arch in enumerate(arches):
            self._arc(i, arch)
        for stop in self.stops:
            self._row(stop)
        self.scene.width = max([self.right, *(t.box.right for t in self.scene.texts)])
        self.scene.height = self.long + 12

    def _band(self, band: Band, y: float) -> None:
        left, last = INDENT * band.depth - 6, self.last_of[band.last]
        nested = sum(b.last == band.last and b.depth > band.depth for b in self.view.bands)
        low, right = last.after + 2 + 4 * nested, self.x + 19 - 2.5 * band.depth
        kind = f"band {'repeat' if band.times > 1 else 'plain'} d{band.depth % 2}"
        ref = ("band", self.view.bands.index(band))
        for back in (2, 1) if band.times > 1 else ():
            self.scene.rects.append(Rect(Box(left - 2.5 * back, y + 2.5 * back, 30, low - y), "stack", 6, ref))
        self.scene.rects.append(Rect(Box(left, y, right - left, low - y), kind, 6, ref))
        spans = band_title(band, self.x - 28 - left)
        self.scene.texts.append(Text(left + 6, y + 14, spans, 10, ref=ref))

    def _spine(self) -> None:
        for stop, following in zip(self.stops, [*self.stops[1:], None], strict=True):
            cell = self.view.cells[stop.cell]
            width = leaving(cell) if stop is self.last_of[stop.cell] else arriving(cell)
            end = following.y if following is not None else stop.after + 4
            steps: tuple[Step, ...] = (("M", self.x, stop.y), ("L", self.x, end))
            self.scene.lines.append(Line(steps, "spine", self.thick(width), ("row", stop.cell)))
        self.scene.lines.append(arrow(self.x, self.stops[-1].after + 11, "down", "spine head"))

    def _arc(self, i: int, arch: Arch) -> None:
        link, ref = self.view.links[i], ("arc", i)
        kind, width = arc_look(self.view, link, self.thick, self.level is not None)
        self.scene.lines.append(Line(tuple(self._turn(s) for s in arch.steps()), kind, width, ref))
        merge = None if link.ends_inside else self.merge_of[i].merge
        if self.level is not None or merge is None or merge.links[-1] == i:  # one head where many come in
            tip = self.x + arch.head - 2.5
            self.scene.lines.append(arrow(tip, arch.end, "left", f"arc {link.words.merge} head", ref))

    def _turn(self, step: Step) -> Step:
        kind, *at = step
        turned = [v for s, t in zip(at[::2], at[1::2], strict=True) for v in (round(self.x + t, 1), round(s, 1))]
        return (kind, *turned)

    def _row(self, stop: Stop) -> None:
        cell, ref = self.view.cells[stop.cell], ("row", stop.cell)
        texts, low = self.scene.texts, stop.y + 4
        if stop.merge is not None:
            self.scene.signs.append(Sign(self.x, stop.y, stop.merge.word, ref))
            words = " · ".join([stop.merge.word, *stop.merge.says])
            words = cut(words, 10, self.x - self.scene.signs[-1].half - 6 - self.what)
            texts.append(Text(self.what, low, ((words, "muted"),), 10, ref=ref))
            for k, (link, text) in enumerate(stop.notes):
                kind = f"label {self.view.links[link].words.merge}"
                texts.append(Text(self.right, low + LINE * k, ((text, kind),), 10.5, ref=("arc", link)))
            return
        name, indent = title_of(cell), INDENT * cell.depth
        columns = [
            (indent, cut(name[0], 11, self.name - indent, is_bold(name[1])), name[1], 11.0, "start"),
            (self.what, cut(cell.what, 11, self.shape - self.what - 10), "what", 11.0, "start"),
            (self.shape, cell.shape, "muted", 10.0, "start"),
            (self.count, f"{cell.count:,}" if cell.count else "", "muted", 10.0, "end"),
        ]
        for x, told, kind, size, anchor in columns:
            if told:
                texts.append(Text(x, low, ((told, kind),), size, anchor, ref=ref))
        kind = category(cell)
        wide, tall = self.thick(arriving(cell), 11, 24), 6.0 if kind == "input" else 13.0
        self.scene.rects.append(Rect(Box(self.x - wide / 2, stop.y - tall / 2, wide, tall), kind, 3, ref))
