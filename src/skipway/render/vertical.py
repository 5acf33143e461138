"""A drawing from top to bottom: a row a layer as in ``print(net)``, the shortcuts arches on the right of the line.

Branches follow each other. Their line is left of that of the chain: a rail on the left leads the value to each of them,
and what they put out goes right and down to where they meet. So no line crosses another but an arch.
"""

from __future__ import annotations

from dataclasses import dataclass

from .arcs import Arch, levels, rise
from .layout import joining
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
from .strip import left_out
from .view import Band, Cell, Limb, View

ROW, LINE, INDENT = 23.0, 13.0, 14.0
_STEP = 11.0
_FAN = 240.0
#: between the rails of nested forks, and from the last of them to the line of the innermost branch
_RAIL, _OFF = 9.0, 18.0


@dataclass(eq=False)
class Stop:
    """A row: a layer, where branches meet, or a merge with the words beside it."""

    cell: int
    merge: Merge | None
    notes: list[tuple[int, str]]
    """What stands right of the arches, each with a link it is about."""
    y: float = 0
    after: float = 0


@dataclass(eq=False)
class Track:
    """A chain, or a branch of one, on a line of its own."""

    view: View
    fork: int
    """In how many forks it is."""
    depth: int
    """How far its names are indented."""
    stops: list[Stop]
    box_of: dict[int, Stop]
    last_of: dict[int, Stop]
    merge_of: dict[int, Stop]
    titles: list[tuple[Band, float]]
    branches: dict[int, list[tuple[Limb, Track | None, float]]]
    """Of every fork: its branches, and where each comes in."""
    splits: dict[int, float]
    """Where the line turns to the branches of a fork."""
    level: dict[int, int] | None
    longest: float = 1.0

    @property
    def enters(self) -> float:
        """Where a branch comes in: at its first row."""
        return self.stops[0].y


class Vertical:
    """Places everything; :attr:`scene` is the outcome."""

    def __init__(self, view: View, title: list[tuple[str, str]], *, legend: bool = True) -> None:
        self.links = view.all_links
        self.number = {id(link): i for i, link in enumerate(self.links)}
        self.thick = Thickness(view)
        self.scene = Scene(tips=tips(view))
        self.same = common(view)
        self.tracks: list[Track] = []
        self.y = 0.0
        self._track(view, 0, 0)
        self._columns()
        self._draw()
        if legend:
            add_legend(self.scene, view, range(len(self.links)) if self.same else [])
        add_title(self.scene, title)

    # -- down the line -------------------------------------------------------------------------------------------------

    def _track(self, view: View, fork: int, depth: int) -> Track:
        track = Track(view, fork, depth, [], {}, {}, {}, [], {}, {}, None)
        self.tracks.append(track)
        for i, cell in enumerate(view.cells):
            for band in view.bands:
                if band.first == i:
                    track.titles.append((band, self.y + 5))
                    self.y += ROW
            if i == 0 and fork:
                self._entry(track)
                continue
            if cell.kind == "fork":
                self._branches(track, i, cell)
            box = Stop(i, None, [], self.y + ROW / 2)
            self.y += ROW
            box.after = self.y + 1
            track.stops.append(box)
            track.box_of[i] = track.last_of[i] = box
            for merge in merges(view, i, self.number):
                notes = self._notes(merge)
                stop = Stop(i, merge, notes, self.y + ROW / 2)
                self.y += max(ROW, LINE * len(notes) + 8)
                stop.after = self.y + 1
                track.stops.append(stop)
                track.last_of[i] = stop
                track.merge_of.update(dict.fromkeys(merge.links, stop))
            self.y += 4
            self.y += 5 * sum(band.last == i for band in view.bands)
        self._levels(track)
        return track

    def _entry(self, track: Track) -> None:
        """Where the value comes into a branch: beside its title, or at its first row."""
        y = self.y + ROW / 2 + (4 if any(band.first == 1 for band in track.view.bands) else 0)
        track.stops.append(Stop(0, None, [], y, y + 2))
        track.box_of[0] = track.last_of[0] = track.stops[0]

    def _branches(self, track: Track, i: int, cell: Cell) -> None:
        first = track.fork and i == 1  # a fork right where the branch begins
        track.splits[i] = track.stops[0].y if first else self.y - ROW / 2
        found = track.branches[i] = []
        for limb in cell.limbs:
            if limb.view is None:
                found.append((limb, None, self.y + ROW / 2))
                self.y += ROW
                continue
            inner = self._track(limb.view, track.fork + 1, track.depth + cell.depth)
            found.append((limb, inner, inner.enters))
            self.y += 7

    def _notes(self, merge: Merge) -> list[tuple[int, str]]:
        found: dict[str, list[int]] = {}
        for link in merge.links:
            text = on_arc(self.links[link])
            if text and not self.same:
                found.setdefault(text, []).append(link)
        return [(links[0], text + (f", {len(links)} times" if len(links) > 1 else "")) for text, links in found.items()]

    def _columns(self) -> None:
        cells = [(track, cell) for track in self.tracks for cell in track.view.cells]

        def widest(texts: list[str], size: float, bold: bool, most: float) -> float:
            return min(most, max((text_width(t, size, bold) for t in texts), default=0))

        stops = [(t, s) for t in self.tracks for s in t.stops]
        says = ["   ".join([s.merge.word, *s.merge.says]) for _, s in stops if s.merge]
        deepest = max((t.depth + c.depth for t, c in cells), default=0)
        self.name = widest([c.title for _, c in cells], 11, True, 150) + INDENT * deepest
        self.what = self.name + 16
        self.shape = self.what + widest([c.what for _, c in cells] + says, 11, False, 240) + 18
        self.count = self.shape + widest([c.shape for _, c in cells], 10, False, 200) + 18
        self.count += widest([f"{c.count:,}" for _, c in cells], 10, False, 100)
        self._lines()

    def _lines(self) -> None:
        """Where the lines of chains and branches run: the innermost on the left, each with room for its arches."""
        deepest = max(track.fork for track in self.tracks)
        at = self.count + 36
        self.rail = {k: at + _RAIL * (k - 1) for k in range(1, deepest + 1)}
        at += _RAIL * (deepest - 1) + _OFF if deepest else 0
        self.line: dict[int, float] = {}
        for k in range(deepest, -1, -1):
            self.line[k] = at
            if k:
                tracks = [track for track in self.tracks if track.fork == k]
                at += max([28.0, *(self.arch(t, i).top + 12 for t in tracks for i in self._links(t))])
        self.x = self.line[0]

    # -- beside the line -----------------------------------------------------------------------------------------------

    def _links(self, track: Track) -> list[int]:
        return [self.number[id(link)] for link in track.view.links]

    def _ends(self, track: Track, i: int) -> tuple[float, float]:
        link = self.links[i]
        box = track.box_of[link.start]
        start = box.y + 3 if link.leaves_inside else box.after if link.words.tap else track.last_of[link.start].after
        end = track.box_of[link.end].y - 3 if link.ends_inside else track.merge_of[i].y
        return start, end

    def _levels(self, track: Track) -> None:
        spans = {i: self._ends(track, i) for i in self._links(track)}
        found = levels(list(spans.values()))
        track.level = None if found is None else dict(zip(spans, found, strict=True))
        track.longest = max((b - a for a, b in spans.values()), default=1.0)

    def arch(self, track: Track, i: int) -> Arch:
        link, (start, end) = self.links[i], self._ends(track, i)
        foot, head = (13.0 if link.leaves_inside else 0.0), (16.0 if link.ends_inside else SIGN + 3)
        base = 17.0
        if track.level is not None:
            return Arch(start, end, base, base + 12 + _STEP * track.level[i], foot, head)
        most = min(_FAN, 20 + track.longest * 0.42)
        return Arch(start, end, base, base + rise(end - start, track.longest, most), foot, head, whole=True)

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        outermost = self.tracks[0]
        tops = [self.line[t.fork] + self.arch(t, i).top for t in self.tracks for i in self._links(t)]
        self.right = max([self.x + 10, *tops]) + 10
        for track in self.tracks:
            for band, y in track.titles:
                self._band(track, band, y)
        for track in self.tracks:
            self._spine(track)
            for i in self._links(track):
                self._arc(track, i)
            for stop in track.stops:
                self._row(track, stop)
        self.scene.lines.append(arrow(self.x, outermost.stops[-1].after + 11, "down", "spine head"))
        self.scene.width = max([self.right, *(t.box.right for t in self.scene.texts)])
        self.scene.height = self.y + 12

    def _band(self, track: Track, band: Band, y: float) -> None:
        left, last = INDENT * (track.depth + band.depth) - 6, track.last_of[band.last]
        nested = sum(b.last == band.last and b.depth > band.depth for b in track.view.bands)
        x = self.line[track.fork]
        low, right = last.after + 2 + 4 * nested, x + 19 - 2.5 * (band.depth if not track.fork else 0)
        kind = f"band {'repeat' if band.times > 1 else 'plain'} d{(track.view.depth + band.depth) % 2}"
        ref = ("band", track.view.at[2] + track.view.bands.index(band))
        for back in (2, 1) if band.times > 1 else ():
            self.scene.rects.append(Rect(Box(left - 2.5 * back, y + 2.5 * back, 30, low - y), "stack", 6, ref))
        self.scene.rects.append(Rect(Box(left, y, right - left, low - y), kind, 6, ref))
        spans = band_title(band, min(self.rail.values(), default=x) - 28 - left)
        self.scene.texts.append(Text(left + 6, y + 14, spans, 10, ref=ref))

    def _spine(self, track: Track) -> None:
        x, view = self.line[track.fork], track.view
        for stop, following in zip(track.stops, [*track.stops[1:], None], strict=True):
            cell, ref = view.cells[stop.cell], ("row", view.at[0] + stop.cell)
            width = self.thick(leaving(cell) if stop is track.last_of[stop.cell] else arriving(cell))
            if stop.cell in track.branches and stop is track.box_of[stop.cell]:
                self._fork(track, stop, self.thick(leaving(view.cells[stop.cell - 1])))
            if following is None:
                end = stop.after + (0 if track.fork else 4)
            elif following.cell in track.branches and following is track.box_of[following.cell]:
                end = max(stop.y, track.splits[following.cell])
            else:
                end = following.y
            steps: tuple[Step, ...] = (("M", x, stop.y), ("L", x, end))
            self.scene.lines.append(Line(steps, "spine", width, ref))

    def _fork(self, track: Track, stop: Stop, width: float) -> None:
        """The rail that leads a value to the branches, and the line that brings together what they put out."""
        x, rail = self.line[track.fork], self.rail[track.fork + 1]
        split, ref = track.splits[stop.cell], ("row", track.view.at[0] + stop.cell)
        for limb, inner, y in track.branches[stop.cell]:
            if inner is None:
                words = ((left_out(limb), "muted"),)
                cell = track.view.cells[stop.cell]
                at = self.what if track.depth + cell.depth < 3 else INDENT * (track.depth + cell.depth)
                self.scene.texts.append(Text(at, y + 4, words, 10))
                continue
            here, line = ("row", inner.view.at[0]), self.line[inner.fork]
            begins = track.fork and stop.cell == 1  # then what leads into the branch ends here, at its rail
            into: tuple[Step, ...] = (("M", x, split - 6), ("L", x, split), ("L", rail, split))
            if begins:
                into = (("M", rail, split),)
            into += (("L", rail, y),)
            into += (
                (("L", self.rail[inner.fork + 1], y),) if 1 in inner.branches else (("L", line, y), ("L", line, y + 6))
            )
            self.scene.lines.append(Line(into, "spine", width, here))
            last, out = inner.stops[-1].after, self.thick(leaving(inner.view.cells[-1]))
            back: tuple[Step, ...] = (
                ("M", line, last - 6), ("L", line, last), ("L", x, last), ("L", x, stop.y),
            )  # fmt: skip
            self.scene.lines.append(Line(back, "spine", out, ref))

    def _arc(self, track: Track, i: int) -> None:
        link, ref, arch = self.links[i], ("arc", i), self.arch(track, i)
        width = leaving(track.view.cells[link.start])
        kind, wide = arc_look(self.links, link, width, self.thick, track.level is not None)
        x = self.line[track.fork]
        self.scene.lines.append(Line(tuple(_turned(s, x) for s in arch.steps()), kind, wide, ref))
        merge = None if link.ends_inside else track.merge_of[i].merge
        if track.level is not None or merge is None or merge.links[-1] == i:  # one head where many come in
            tip = x + arch.head - 2.5
            self.scene.lines.append(arrow(tip, arch.end, "left", f"arc {link.words.merge} head", ref))

    def _row(self, track: Track, stop: Stop) -> None:
        cell, ref = track.view.cells[stop.cell], ("row", track.view.at[0] + stop.cell)
        texts, low, x = self.scene.texts, stop.y + 4, self.line[track.fork]
        forks = stop.cell in track.branches
        if stop.cell == 0 and track.fork:
            return
        if stop.merge is not None or forks:
            word = stop.merge.word if stop.merge is not None else joining(cell.row.module)
            self.scene.signs.append(Sign(x, stop.y, word, ref))
            words = " · ".join([word, *(stop.merge.says if stop.merge is not None else [])])
            room = (self.shape - 10 if forks and stop.merge is None else x - self.scene.signs[-1].half - 6) - self.what
            texts.append(Text(self.what, low, ((cut(words, 10, room), "muted"),), 10, ref=ref))
            if stop.merge is None and cell.shape:
                texts.append(Text(self.shape, low, ((cell.shape, "muted"),), 10, ref=ref))
            for k, (link, text) in enumerate(stop.notes):
                kind = f"label {self.links[link].words.merge}"
                texts.append(Text(self.right, low + LINE * k, ((text, kind),), 10.5, ref=("arc", link)))
            return
        name, indent = title_of(cell), INDENT * (track.depth + cell.depth)
        columns = [
            (indent, cut(name[0], 11, self.name - indent, is_bold(name[1])), name[1], 11.0, "start"),
            (self.what, cut(cell.what, 11, self.shape - self.what - 10), "what", 11.0, "start"),
            (self.shape, cell.shape, "muted", 10.0, "start"),
            (self.count, f"{cell.count:,}" if cell.count else "", "muted", 10.0, "end"),
        ]
        for at, told, kind, size, anchor in columns:
            if told:
                texts.append(Text(at, low, ((told, kind),), size, anchor, ref=ref))
        kind = category(cell)
        wide, tall = self.thick(arriving(cell), 11, 24), 6.0 if kind == "input" else 13.0
        self.scene.rects.append(Rect(Box(x - wide / 2, stop.y - tall / 2, wide, tall), kind, 3, ref))


def _turned(step: Step, x: float) -> Step:
    kind, *at = step
    turned = [v for s, t in zip(at[::2], at[1::2], strict=True) for v in (round(x + t, 1), round(s, 1))]
    return (kind, *turned)
