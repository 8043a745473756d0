"""Write docs/benchmarks.md from eval/*.yaml and the docstrings of the metrics: page and code cannot drift apart.

python scripts/eval_docs.py           # writes docs/benchmarks.md
python scripts/eval_docs.py --check   # exits 1 where the page is not what they say
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from _page import main

from ufo_tune import plugins, resources
from ufo_tune.config import Protocol

HEAD = """# Benchmarks

Written by `python scripts/eval_docs.py` from `eval/*.yaml` and the docstrings in `ufo_tune/metrics/`. A protocol is run
by

```sh
DATA=DIR ufo-tune eval CHECKPOINT --suite NAME,NAME:SPLIT --out scores
```

with the data in the trees that [data.md](data.md) shows, below the folder in the last column; the rest is in
[evaluate.md](evaluate.md). Published numbers are written as ours are (0.67, not 67); `scores/report.html` has both.
What others did differently is said in the model's words, or in the comments of the protocol's file.
"""
_ABOUT = ("model", "split", "source")


def page() -> str:
    """The whole page."""
    protocols = {name: Protocol.load(name, keep_unset=True) for name in resources.names("eval")}
    rows = ["| protocol | task | dataset | splits | metric | first published number | data |"]
    rows += ["| --- | --- | --- | --- | --- | --- | --- |"]
    rows += [_row(name, protocol) for name, protocol in protocols.items()]
    sections = [_numbers(name, protocol) for name, protocol in protocols.items() if protocol.reference]
    metrics = ["## Metrics\n", *(_metric(name) for name in plugins.names("metrics"))]
    return "\n".join([HEAD, *rows, "", "## Published numbers\n", *sections, *metrics])


def _row(name: str, protocol: Protocol) -> str:
    linked = f"[{name}](#{name})" if protocol.reference else name
    dataset = f"[{protocol.dataset}](data.md#{protocol.dataset})"
    metric = f"[{protocol.metric}](#metric-{protocol.metric})"
    best = ""
    if protocol.reference:
        first = protocol.reference[0]
        best = f"{first['model']}, {first['split']}: {_values(first)}"
    root = f"`{_raw_root(name)}`" if protocol.root else "none needed"
    cells = (linked, protocol.task, dataset, ", ".join(protocol.splits), metric, best, root)
    return f"| {' | '.join(cells)} |"


def _raw_root(name: str) -> str:
    """As the file has it: a variable that happens to be set here must not reach the page."""
    found = re.search(r'^root: "?([^"\n]+)"?', resources.locate("eval", name).read_text(encoding="utf-8"), flags=re.M)
    assert found is not None, name
    return found[1]


def _numbers(name: str, protocol: Protocol) -> str:
    """All published numbers of a protocol."""
    rows = ["| model | split | values | source |", "| --- | --- | --- | --- |"]
    rows += [f"| {r['model']} | {r['split']} | {_values(r)} | {r['source']} |" for r in protocol.reference]
    return "\n".join([f"### {name}\n", f"{protocol.description}.\n", *rows, ""])


def _values(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in row.items() if key not in _ABOUT)


def _metric(name: str) -> str:
    doc = inspect.cleandoc(plugins.find("metrics", name).__doc__ or "").replace("``", "`")
    return f"### metric {name}\n\n```text\n{doc}\n```\n"


if __name__ == "__main__":
    raise SystemExit(main(page, "benchmarks.md", "eval/ and the metrics", __doc__))
