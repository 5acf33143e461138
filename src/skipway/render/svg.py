"""A scene as SVG: one file without scripts, links or fonts, light and dark by what the reader prefers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from xml.sax.saxutils import escape, quoteattr

from .scene import SIGNS, Line, Rect, Ref, Scene, Sign, Step, Text, cut, is_bold
from .theme import FONT, LIGHT, THEMES, css

_STATIC = "".join(
    f"svg.skipway {rule}"
    for rule in (
        f"text{{font-family:{FONT};white-space:pre}}",
        ".arc{fill:none;stroke-linecap:round}",
        ".l-spine{fill:none}",
        ".loose{stroke-dasharray:4 3}",
        ".gap{stroke-dasharray:3 3}",
        ".repeat{stroke-dasharray:6 3}",
        ".faint{stroke-opacity:.45}",
        ".s{fill:none;stroke-width:1.7;stroke-linecap:round}",
        ".b{font-weight:600}",
        "g.arc:hover path{stroke-width:3}",
    )
)


def svg(scene: Scene, *, theme: str = "auto", label: str = "") -> str:
    """The text of an SVG file.

    ``theme`` is ``"light"``, ``"dark"``, or ``"auto"``: light, and dark where the reader prefers that. ``label`` is
    what a screen reader says.
    """
    # by its theme, so that two drawings on one page do not colour each other
    root = f"svg.skipway.{theme}"
    rules = css(THEMES.get(theme, LIGHT), root)
    if theme == "auto":
        rules += "@media (prefers-color-scheme:dark){" + css(THEMES["dark"], root) + "}"
    w, h = _n(scene.width), _n(scene.height)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="skipway {theme}" width="{w}" height="{h}" '
        f'viewBox="0 0 {w} {h}" role="img" aria-label={quoteattr(label)}>'
    )
    paper = f'<rect class="paper" width="{w}" height="{h}" rx="6" stroke="none"/>'
    out = [head, f"<style>{_STATIC}{rules}</style>", paper]
    spine = [line for line in scene.lines if line.kind.startswith("spine")]
    rest = [line for line in scene.lines if not line.kind.startswith("spine")]
    out += [_rect(r) for r in scene.rects if r.is_behind]
    out += [_line(line) for line in spine]
    out += _grouped(scene, rest)
    out += _grouped(scene, [r for r in scene.rects if not r.is_behind])
    out += _grouped(scene, scene.signs)
    plain = len(scene.tips) > _TIPS
    out += [_text(replace(t, ref=None) if plain else t) for t in scene.texts]
    out.append("</svg>")
    return "\n".join(out)


#: with more rows and shortcuts than this, a file with a tip for each would be larger than anybody wants to open
_TIPS = 1500


def _grouped(scene: Scene, pieces: Iterable[Line | Rect | Sign]) -> list[str]:
    """Pieces of one row or shortcut in a group, with what it says when one points at it."""
    groups: list[tuple[Ref, list[str]]] = []
    plain = len(scene.tips) > _TIPS
    for piece in pieces:
        text = _line(piece) if isinstance(piece, Line) else _rect(piece) if isinstance(piece, Rect) else _sign(piece)
        if not groups or groups[-1][0] != piece.ref or piece.ref is None:
            groups.append((piece.ref, []))
        groups[-1][1].append(text)
    out = []
    for ref, texts in groups:
        if ref is None or plain:
            out.append("".join(texts))
        else:
            tip = scene.tips.get(ref)
            told = f"<title>{escape(tip)}</title>" if tip else ""
            out.append(f'<g class="{ref[0]}" data-n="{ref[1]}">{told}{"".join(texts)}</g>')
    return out


def _rect(r: Rect) -> str:
    b = r.box
    kind = f"band {' '.join(r.kind.split()[1:])}" if r.kind.startswith("band") else r.kind
    return (
        f'<rect class="{kind}" x="{_n(b.x)}" y="{_n(b.y)}" width="{_n(b.w)}" height="{_n(b.h)}" rx="{_n(r.radius)}"/>'
    )


def _line(line: Line) -> str:
    first, *rest = line.kind.split()
    colour = next((k for k in rest if k in LIGHT.lines), "spine" if first == "spine" else "merge")
    if "head" in rest:
        return f'<path class="h-{colour}" d="{path(line.steps)}"/>'
    loose = "".join(f" {word}" for word in ("loose", "faint") if word in rest)
    kind = f"arc l-{colour}{loose}" if first == "arc" else f"l-{colour}"
    return f'<path class="{kind}" stroke-width="{_n(line.width, 2)}" d="{path(line.steps)}"/>'


def path(steps: Iterable[Step]) -> str:
    """The ``d`` of a path; level and upright lines in the short form.

    >>> path([("M", 1, 2), ("L", 1, 5.04), ("L", 3, 5.04), ("L", 4, 6)])
    'M1 2V5H3L4 6'
    """
    out = []
    x = y = ""
    for kind, *at in steps:
        told = [_n(a) for a in at]
        if kind == "L" and told[0] == x:
            out.append(f"V{told[1]}")
        elif kind == "L" and told[1] == y:
            out.append(f"H{told[0]}")
        else:
            out.append(kind + " ".join(told))
        x, y = told[-2:]
    return "".join(out)


def _sign(sign: Sign) -> str:
    x, y, r = sign.x, sign.y, sign.radius
    if sign.word in SIGNS:
        strokes = "".join(
            "M" + "L".join(f"{_n(x + r * a)} {_n(y + r * b)}" for a, b in stroke) for stroke in SIGNS[sign.word]
        )
        return f'<circle class="sign" cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"/><path class="s" d="{strokes}"/>'
    half = sign.half
    return (
        f'<rect class="sign" x="{_n(x - half)}" y="{_n(y - r)}" width="{_n(2 * half)}" height="{_n(2 * r)}" '
        f'rx="{_n(r)}"/><text class="t-what" x="{_n(x)}" y="{_n(y + 3.2)}" font-size="9" text-anchor="middle">'
        f"{escape(cut(sign.word, 9, 70))}</text>"
    )


def _text(text: Text) -> str:
    place = f'x="{_n(text.x)}" y="{_n(text.y)}"'
    if text.turned:
        place = f'transform="translate({_n(text.x)} {_n(text.y)})rotate(90)"'
    anchor = "" if text.anchor == "start" else f' text-anchor="{text.anchor}"'
    ref = f' data-{text.ref[0]}="{text.ref[1]}"' if text.ref is not None else ""
    spans = [(t, _kind(kind)) for t, kind in text.spans if t]
    look = f'{place} font-size="{_n(text.size)}"{anchor}{ref}'
    if len(spans) == 1:
        return f'<text class="{spans[0][1]}" {look}>{escape(spans[0][0])}</text>'
    told = "".join(f'<tspan class="{kind}">{escape(t)}</tspan>' for t, kind in spans)
    return f"<text {look}>{told}</text>"


def _kind(kind: str) -> str:
    first, *rest = kind.split()
    if first == "label":
        colour = next((k for k in rest if k in LIGHT.lines), "merge")
        return f"t-{colour}"
    return f"t-{first}" + (" b" if is_bold(first) else "")


def _n(x: float, digits: int = 1) -> str:
    return f"{x:.{digits}f}".rstrip("0").rstrip(".") or "0"
