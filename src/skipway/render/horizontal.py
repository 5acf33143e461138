"""A drawing from left to right: the chain is a line, the shortcuts arches above it, branches beside it, words below."""

from __future__ import annotations

from dataclasses import replace

from .layout import joining
from .legend import add_legend, add_title
from .parts import Thickness, arc_look, arriving, band_title, category, common, leaving, tips
from .scene import SIGN, Box, Line, Rect, Ref, Scene, Sign, Step, Text, arrow, cut
from .strip import LABEL, Branch, Stop, Strip, Style, left_out, size_of
from .view import View

#: what has its words upright may be as wide as this; wider ones turn them, and then say all in one line
ROOMY = 1240
LOOSE = 2400
_BEND = 8.0


class Horizontal:
    """Draws the strips of a chain; :attr:`scene` is the outcome."""

    def __init__(self, view: View, title: list[tuple[str, str]], *, legend: bool = True) -> None:
        links = view.all_links
        style = Style(links, {id(link): i for i, link in enumerate(links)}, Thickness(view), common(view))
        strip = Strip(view, style)
        if strip.natural > ROOMY:
            style = replace(style, turned=True)
            strip = Strip(view, style)
        if strip.natural > LOOSE:
            style = replace(style, tight=True)
            strip = Strip(view, style)
        strip.finish()
        self.style = style
        self.scene = Scene(tips=tips(view))
        self._draw(strip, 0.0, strip.up)
        self.scene.lines.append(arrow(strip.stops[-1].after + 13, strip.up, "right", "spine head"))
        self.scene.width = max(s.after for s in strip.stops) + 8
        self.scene.height = strip.up + strip.down
        if legend:
            add_legend(self.scene, view, strip.unplaced_in_all(), short=style.turned)
        add_title(self.scene, title)

    def _draw(self, strip: Strip, x: float, y: float) -> None:
        """Draw a strip whose own origin is at ``(x, y)``."""
        self._bands(strip, x, y)
        self._spine(strip, x, y)
        for i in strip.links:
            self._arc(strip, i, x, y)
        for stop in strip.stops:
            if stop.branches:
                self._fork(strip, stop, x, y)
            elif not (strip.inside and stop.cell == 0):
                self._stop(strip, stop, x, y)

    def _spine(self, strip: Strip, x: float, y: float) -> None:
        for stop, following in zip(strip.stops, [*strip.stops[1:], None], strict=True):
            cell = strip.view.cells[stop.cell]
            width = self.style.thick(leaving(cell) if stop is strip.last_of[stop.cell] else arriving(cell))
            end = following.into if following is not None else stop.after + (0 if strip.inside else 6)
            steps: tuple[Step, ...] = (("M", _r(x + stop.out), _r(y)), ("L", _r(x + end), _r(y)))
            self.scene.lines.append(Line(steps, "spine", width, _row(strip, stop)))

    def _arc(self, strip: Strip, i: int, x: float, y: float) -> None:
        arch, link, ref = strip.arch(i), self.style.links[i], ("arc", i)
        kind, width = arc_look(self.style.links, link, leaving(strip.view.cells[link.start]), self.style.thick,
                               strip.level is not None)  # fmt: skip
        steps = tuple(_turned(step, x, y) for step in arch.steps())
        self.scene.lines.append(Line(steps, kind, width, ref))
        merge = None if link.ends_inside else strip.merge_of[i].merge
        if strip.level is not None or merge is None or merge.links[-1] == i:  # one head where many come in
            tip = y - arch.head + 2.5
            self.scene.lines.append(arrow(x + arch.end, tip, "down", f"arc {link.words.merge} head", ref))
        if i in strip.label_at:
            spans = ((strip.label[i], f"label {link.words.merge}"),)
            self.scene.texts.append(Text(x + strip.label_at[i], y - arch.top - 6, spans, LABEL, "middle", ref=ref))

    def _stop(self, strip: Strip, stop: Stop, x: float, y: float) -> None:
        """A mark on the line, and the words below."""
        ref, low = _row(strip, stop), y + self.style.half + 4
        if stop.merge is not None:
            self.scene.signs.append(Sign(x + stop.x, y, stop.merge.word, ref, self.style.sign))
        else:
            self._mark(strip, stop, x, y, ref)
        lines = [spans for spans in stop.lines if "".join(t for t, _ in spans)]
        for k, spans in enumerate(lines):
            size, at = size_of(stop, k), x + stop.x
            if self.style.turned:  # the second line of words that run downwards is on the left
                at = at - 3.5 if len(lines) == 1 else at + (2.5, -9.5)[k]
                text = Text(at, low + 4, spans, size, "start", True, ref)
            else:
                down = y + SIGN + 13 + 12 * k if stop.merge else low + 9 + 13 * k
                text = Text(at, down, spans, size, "middle", False, ref)
            self.scene.texts.append(text)

    def _mark(self, strip: Strip, stop: Stop, x: float, y: float, ref: Ref) -> None:
        """The layer on the line: a box with its kind, or a small one where the words run down."""
        cell, half = strip.view.cells[stop.cell], self.style.half
        kind = category(cell)
        if self.style.turned:
            tall = self.style.thick(arriving(cell), 12, 2 * half - 4)
            wide = {"weights": 16.0, "closed": 16.0, "gap": 16.0, "act": 9.0, "input": 6.0}.get(kind, 12.0)
            box, radius = Box(x + stop.x - wide / 2, y - tall / 2, wide, tall), 3
        else:
            tall, radius = (24.0, 12) if kind == "input" else (2 * half, 6)
            box = Box(x + stop.x - stop.half, y - tall / 2, 2 * stop.half, tall)
            told = "input" if kind == "input" else cut(cell.what, 11, 230)
            self.scene.texts.append(Text(x + stop.x, y + 4, ((told, "what"),), 11, "middle", ref=ref))
        self.scene.rects.append(Rect(box, kind, radius, ref))

    # -- branches ------------------------------------------------------------------------------------------------------

    def _fork(self, strip: Strip, stop: Stop, x: float, y: float) -> None:
        """Lines from where the chain forks to every branch, and from there to the sign where they meet."""
        cell = strip.view.cells[stop.cell]
        split, join = x + stop.into, x + stop.out
        width = self.style.thick(leaving(strip.view.cells[stop.cell - 1]))
        for branch in stop.branches:
            self._branch(stop, branch, (split, join, y), width)
        self.scene.signs.append(Sign(join, y, joining(cell.row.module), _row(strip, stop), self.style.sign))

    def _branch(self, stop: Stop, branch: Branch, ends: tuple[float, float, float], width: float) -> None:
        split, join, y = ends
        at, here = y + branch.y, branch.strip
        if here is None:
            told = ((left_out(branch.limb), "muted"),)
            self.scene.texts.append(Text(split + branch.x, at + 3.5, told, 10, "middle"))
            return
        left = split + branch.x
        right = left + here.stops[-1].after - 1  # a little over each other, so that no seam shows
        ref = ("row", here.view.at[0])
        out = self.style.thick(leaving(here.view.cells[-1]))
        bend = min(_BEND, branch.y)
        into: tuple[Step, ...] = (("M", _r(split), _r(at)), ("L", _r(left + here.stops[0].x + 1), _r(at)))
        back: tuple[Step, ...] = (("M", _r(right), _r(at)), ("L", _r(join), _r(at)))
        if branch.y:
            into = (
                ("M", _r(split), _r(y)), ("L", _r(split), _r(at - bend)),
                ("C", _r(split), _r(at), _r(split), _r(at), _r(split + bend), _r(at)), into[1],
            )  # fmt: skip
            back = (
                back[0], ("L", _r(join - bend), _r(at)),
                ("C", _r(join), _r(at), _r(join), _r(at), _r(join), _r(at - bend)), ("L", _r(join), _r(y)),
            )  # fmt: skip
        self.scene.lines += [Line(into, "spine", width, ref), Line(back, "spine", out, ref)]
        self._draw(here, left, at)

    # -- frames --------------------------------------------------------------------------------------------------------

    def _bands(self, strip: Strip, x: float, y: float) -> None:
        """Frames behind what belongs together, the name of each below it."""
        for i, band in enumerate(strip.view.bands):
            left, right, up, low = strip.frame(band)
            ref = ("band", strip.view.at[2] + i)
            stacked = 5.0 if band.times > 1 and strip.inside else 0.0
            left, top = x + left + stacked, y - up + stacked
            wide, tall = x + right - left, y + low - top
            for back in (5.0, 2.5) if band.times > 1 else ():  # a stack of cards
                self.scene.rects.append(Rect(Box(left - back, top - back, wide, tall), "stack", 8, ref))
            kind = f"band {'repeat' if band.times > 1 else 'plain'} d{(strip.view.depth + band.depth) % 2}"
            self.scene.rects.append(Rect(Box(left, top, wide, tall), kind, 8, ref))
            spans = band_title(band, wide - 10)
            self.scene.texts.append(Text(left + 5, y + low - 4.5, spans, 10, ref=ref))


def _row(strip: Strip, stop: Stop) -> Ref:
    return ("row", strip.view.at[0] + stop.cell)


def _r(x: float) -> float:
    return round(x, 1)


def _turned(step: Step, x: float, y: float) -> Step:
    kind, *at = step
    return (kind, *(_r(x + a) if k % 2 == 0 else _r(y - a) for k, a in enumerate(at)))
