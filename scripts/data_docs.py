"""Write docs/data.md from the docstrings of the datasets: one text, so that page and code cannot drift apart.

python scripts/data_docs.py           # writes docs/data.md
python scripts/data_docs.py --check   # exits 1 where the page is not what the docstrings say
"""

from __future__ import annotations

import inspect

from _page import main

from ufo_tune import plugins

HEAD = """# Datasets

Written by `python scripts/data_docs.py` from the docstrings in `ufo_tune/datasets/`. Nothing is downloaded: get the
files from the source that is named, put them in the tree that is shown, and check them before training on them:

```sh
ufo-tune data validate DATASET ROOT SPLIT --task TASK        # every fault, with its place
ufo-tune data show DATASET ROOT SPLIT --task TASK --out seen # pictures with their truth
ufo-tune data stats DATASET ROOT SPLIT --task TASK           # counts to compare with those below
```

Large annotation files are read once into a table in `$UFO_TUNE_CACHE` (default `~/.cache/ufo-tune`). Recipes give the
root as `${DATA}/...`. Your own pictures: [own_data.md](own_data.md). A tiny example of each tree:
`python scripts/make_fixtures.py DATASET --out seen`.
"""


def page() -> str:
    """The whole page."""
    names = plugins.names("datasets")
    rows = ["| dataset | tasks |", "| --- | --- |"]
    rows += [f"| [{n}](#{n}) | {', '.join(plugins.find('datasets', n).TASKS)} |" for n in names]
    return "\n".join([HEAD, *rows, "", *(_section(n) for n in names)])


def _section(name: str) -> str:
    """A dataset's docstring under its name, what it checks with, and its options."""
    module = plugins.find("datasets", name)
    doc = inspect.cleandoc(module.__doc__ or "").replace("``", "`")
    task = module.TASKS[0]
    check = f"ufo-tune data show {name} ROOT SPLIT --task {task} --out seen"
    options = [p for p in inspect.signature(module.load).parameters.values() if p.kind is p.KEYWORD_ONLY]
    taken = ", ".join(f"`{p.name}`" for p in options if p.name != "task")
    return f"## {name}\n\n```text\n{doc}\n```\n\nCheck: `{check}`. Options: {taken or 'none'}.\n"


if __name__ == "__main__":
    raise SystemExit(main(page, "data.md", "the docstrings", __doc__))
