"""Colours of a drawing, for light and for dark. What a colour says, a shape or a word says too."""

from __future__ import annotations

from dataclasses import dataclass

#: families that a picture in a paper, a slide and a browser are likely to have
FONT = "'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Theme:
    """Colours by what they are for: ``(fill, stroke)`` of boxes, strokes of lines, fills of words."""

    name: str
    paper: str
    boxes: dict[str, tuple[str, str]]
    lines: dict[str, str]
    words: dict[str, str]

    def box(self, kind: str) -> tuple[str, str]:
        for word in kind.split():
            if word in self.boxes:
                return self.boxes[word]
        return self.boxes["other"]

    def line(self, kind: str) -> str:
        """The colour of a line such as ``arc add loose``: of its merge, or that of merges without one."""
        first, *rest = kind.split()
        found = next((self.lines[word] for word in rest if word in self.lines), None)
        return found or self.lines[first if first != "arc" else "merge"]

    def word(self, kind: str) -> str:
        first, *rest = kind.split()
        if first == "label":
            return self.line(f"arc {' '.join(rest)}")
        return self.words.get(first, self.words["what"])


LIGHT = Theme(
    "light",
    "#ffffff",
    {
        "weights": ("#d3e5f8", "#3f79b5"), "norm": ("#e9eaed", "#8b919b"), "act": ("#fdeccb", "#c58a1a"),
        "pool": ("#d8f0de", "#4c9a60"), "closed": ("#e7dff6", "#7d61b3"), "gap": ("#ffffff", "#9aa5b1"),
        "input": ("#ffffff", "#52606d"), "other": ("#ffffff", "#52606d"), "sign": ("#ffffff", "#1f2933"),
        "stack": ("#eef1f5", "#c3ccd6"), "d0": ("#f6f8fa", "#d3dae2"), "d1": ("#eceff4", "#c9d2dc"),
    },
    {
        "spine": "#5b6875", "add": "#2364c4", "cat": "#c2501a", "gate": "#7b40b2", "mul": "#b3266f", "mean": "#0d7a76",
        "max": "#66760f", "min": "#66760f", "sub": "#b02a2a", "merge": "#4b5563",
    },
    {
        "title": "#1f2933", "name": "#1f2933", "what": "#1f2933", "index": "#8a949f", "muted": "#626e7a",
        "gain": "#4b5563", "times": "#1f2933",
    },
)  # fmt: skip

DARK = Theme(
    "dark",
    "#12171d",
    {
        "weights": ("#1d3a59", "#6ea8e6"), "norm": ("#2c333b", "#8e99a6"), "act": ("#4a3915", "#e0ab48"),
        "pool": ("#1d4029", "#6cc284"), "closed": ("#382a55", "#a98be0"), "gap": ("#12171d", "#7b8794"),
        "input": ("#12171d", "#9aa5b1"), "other": ("#12171d", "#9aa5b1"), "sign": ("#12171d", "#e8edf2"),
        "stack": ("#1b222a", "#3a4551"), "d0": ("#1a2028", "#333d48"), "d1": ("#222a34", "#3f4a57"),
    },
    {
        "spine": "#94a1ae", "add": "#6aa5f5", "cat": "#f2935c", "gate": "#bd8ff0", "mul": "#f07fb5", "mean": "#4cc7c0",
        "max": "#b9cc4a", "min": "#b9cc4a", "sub": "#f08080", "merge": "#b6c0ca",
    },
    {
        "title": "#e8edf2", "name": "#e8edf2", "what": "#e8edf2", "index": "#7b8794", "muted": "#9fabb7",
        "gain": "#b6c0ca", "times": "#e8edf2",
    },
)  # fmt: skip

THEMES = {"light": LIGHT, "dark": DARK}


def css(theme: Theme, root: str) -> str:
    """The rules of a theme, for everything below ``root``. No variables: converters to PDF do not know them."""
    rules = [f".paper{{fill:{theme.paper}}}"]
    rules += [f".{kind}{{fill:{fill};stroke:{stroke}}}" for kind, (fill, stroke) in theme.boxes.items()]
    rules += [f".l-{kind}{{stroke:{colour}}}" for kind, colour in theme.lines.items()]
    rules += [f".h-{kind}{{fill:{colour};stroke:{colour}}}" for kind, colour in theme.lines.items()]
    rules += [f".t-{kind}{{fill:{colour}}}" for kind, colour in (theme.lines | theme.words).items()]
    rules.append(f".s{{stroke:{theme.boxes['sign'][1]}}}")
    return "".join(f"{root} {rule}" for rule in rules)
