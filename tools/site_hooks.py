"""What the site has beside the pages in `docs/`: notebooks, and metadata of pages.

MkDocs calls these functions (`hooks` in `mkdocs.yml`).

* Each notebook becomes a page of Markdown with its committed outputs; none is run. The
  notebook itself lies beside it for download. (mkdocs-jupyter wants notebooks inside
  `docs/`, loads MathJax from elsewhere and does not share the styles of the site.)
* Links from a page to a notebook, which work in a checkout, lead to that page.
* `extra.pages` in `mkdocs.yml` gives pages the metadata that is usually written on top
  of the page itself, where a code host shows it to every reader.
"""

from __future__ import annotations

import base64
import itertools
import json
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
LINK = re.compile(r"\]\(\.\./((?:\.\./)*notebooks/\w+)\.ipynb\)")


def on_files(files: Any, config: Any) -> None:
    """Add the pages of the notebooks, their pictures, and the notebooks."""
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        page, pictures = as_page(json.loads(text), path.stem)
        made: dict[str, str | bytes] = {f"{path.stem}.md": page, path.name: text}
        for name, content in {**made, **pictures}.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    absent = set(config.extra["pages"]) - set(files.src_uris)
    if absent:
        raise PluginError(f"No pages, but in extra.pages of mkdocs.yml: {absent}")


def on_page_markdown(markdown: str, page: Any, config: Any, **kwargs: Any) -> str:
    """Give the page its metadata, its links to notebooks their addresses.

    And in tables a number and its error stay on one line.
    """
    page.meta.update(config.extra["pages"].get(page.file.src_uri, {}))
    markdown = re.sub(
        r"^\|.*", lambda row: row[0].replace(" ± ", "\xa0±\xa0"), markdown, flags=re.M
    )
    return LINK.sub(r"](\1.md)", markdown)


def as_page(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and the pictures in it by their file names.

    The title stays first; a link to the notebook follows it.
    """
    blocks: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(fenced(source, "python"))
        for kind, content in outputs(cell):
            if kind == "image/png":
                picture = f"{name}_{len(pictures) + 1}.png"
                pictures[picture] = base64.b64decode(content)
                blocks.append(f"![Figure {len(pictures)}]({picture})")
            elif kind == "text/html":
                blocks.append(f'<div class="output">\n{content}\n</div>')
            else:
                inside = fenced(content.rstrip(), "text")
                blocks.append(f'<div class="output" markdown>\n\n{inside}\n\n</div>')
    title, _, rest = "\n\n".join(blocks).partition("\n")
    link = f"[Download the notebook]({name}.ipynb){{ download }}"
    return f"{title}\n\n{link}\n{rest}\n", pictures


def outputs(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The outputs of a cell, each in the richest form that a page can show.

    Lines of text that follow one another are one output, whichever call printed them.
    """
    found = []
    for output in cell["outputs"]:
        data = output.get("data", {"text/plain": output.get("text", "")})
        for kind in ("image/png", "text/html", "text/plain"):
            if kind in data:
                found.append((kind, "".join(data[kind])))
                break
    for kind, some in itertools.groupby(found, key=operator.itemgetter(0)):
        contents = [content for _, content in some]
        if kind == "text/plain":
            contents = ["\n".join(content.rstrip() for content in contents)]
        yield from ((kind, content) for content in contents)


def fenced(text: str, language: str) -> str:
    """A block of code, whatever fences are in it."""
    return f"~~~~~{language}\n{text}\n~~~~~"
