"""HTML without scripts, fonts or outside files: one style for every report, light and dark.

html = page("Results", [("Scores", table([{"task": "rec", "Acc@0.5": 0.91}])), ("Next", code(["ufo-tune env"]))])

Texts given to these functions are plain and are escaped here; what they return is HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --panel: #f5f7f9; --line: #d8dee4;
        --accent: #0072b2; --good: #00704f; --bad: #b04a00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ed; --soft: #9fabb6; --paper: #12161a; --panel: #1b2127;
        --line: #333c45; --accent: #56b4e9; --good: #3fc79a; --bad: #f0904a } }
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; margin: 0 auto; max-width: 1080px;
       padding: 2.2rem 1.2rem 4rem; color: var(--ink); background: var(--paper) }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
p { margin: .5rem 0; max-width: 75ch } small, .soft { color: var(--soft) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4rem 0 }
th, td { padding: .38rem .8rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
th { color: var(--soft); font-weight: 600; font-size: .86rem } th.number, td.number { text-align: right }
tbody tr:hover { background: var(--panel) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: .8rem; margin: 1.2rem 0 }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem }
.card .name { color: var(--soft); font-size: .84rem }
.card .now { font-size: 1.9rem; font-weight: 650; line-height: 1.25 }
.card .then { font-size: .86rem; color: var(--soft) } .up { color: var(--good) } .down { color: var(--bad) }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 1.1rem }
figure { margin: 0 } figure img, figure svg { max-width: 100%; height: auto; border-radius: 6px; display: block }
.gallery figure img { width: 100% }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .35rem; overflow-wrap: anywhere }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem;
      overflow-x: auto; font: 13px/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; margin: .6rem 0 }
.bar span { min-width: 2px } .keys { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .86rem }
.keys i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em }
details summary { cursor: pointer; color: var(--accent) }
"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML document.

    Args:
        title: plain text.
        sections: heading (plain text; may be empty) and HTML of each part.
    """
    name = escape(title)
    parts = [
        "<section>\n" + (f"<h2>{escape(heading)}</h2>\n" if heading else "") + f"{html}\n</section>"
        for heading, html in sections
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{name}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def paragraph(text: str, *, soft: bool = False) -> str:
    """A paragraph of plain text; ``soft`` for remarks."""
    return f'<p class="soft">{escape(text)}</p>' if soft else f"<p>{escape(text)}</p>"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A table: a column for every key, in order of first appearance; empty where a row lacks it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {c for c in columns if all(_is_number(row[c]) for row in rows if c in row)}
    head = "".join(f'<th scope="col"{_number_class(c in numeric)}>{escape(c)}</th>' for c in columns)
    body = "".join("<tr>" + "".join(_cell(row.get(c, "")) for c in columns) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def figure(path: str | Path, caption: str, alt: str = "") -> str:
    """A picture with its caption.

    Args:
        path: relative to the page, so that the folder can be moved.
        caption: plain text.
        alt: what the picture shows, for those who cannot see it; the caption where it says so already.
    """
    source = quote(Path(path).as_posix())
    return (
        f'<figure><img src="{source}" alt="{escape(alt or caption)}" loading="lazy">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def gallery(figures: Sequence[str]) -> str:
    """Figures side by side, as many in a row as fit."""
    return '<div class="gallery">\n' + "\n".join(figures) + "\n</div>"


def code(commands: Sequence[str]) -> str:
    """Lines of a terminal or a file, one each."""
    return f"<pre><code>{escape(chr(10).join(commands))}</code></pre>"


def fold(summary: str, html: str) -> str:
    """HTML that is shown only when asked for."""
    return f"<details><summary>{escape(summary)}</summary>\n{html}\n</details>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number_class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _cell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return f"<td{_number_class(_is_number(value))}>{escape(text)}</td>"
