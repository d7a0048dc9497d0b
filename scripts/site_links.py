"""A hook of MkDocs: files outside of docs/ that the documents link to become pages of the site.

The documents link to `../examples/failover.py` as it stands in the tree, so that the link works where the sources
are read. A site has only docs/: each such file is made a page, with its text highlighted, and the link leads there.
A link to a folder becomes its name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

FOLDER = "tree"
"""The folder of the site for these pages."""

LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>(?![a-z]+:|#)[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
"""A link to another file."""

FENCED = re.compile(r"(^(?P<fence>`{3,}).*?^(?P=fence)$)", re.MULTILINE | re.DOTALL)
TRANSCRIPT = re.compile(r"^```transcript .*$", re.MULTILINE)
"""What begins a transcript that says in which surroundings it is tested; no language that Markdown knows."""

LANGUAGES = {
    ".py": "python", ".mjs": "javascript", ".service": "ini", ".socket": "ini", ".conf": "ini", ".yml": "yaml",
}  # fmt: skip


def resolve(source: str, target: str) -> str:
    """The path in the tree of what a file of the tree links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def in_site(path: str) -> str:
    """The page or file of the site for a file of the tree, relative to docs/."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{FOLDER}/{path}" if path.endswith(".md") else f"{FOLDER}/{path}.md"


def linked(source: str, markdown: str) -> set[str]:
    """The files of the tree outside of docs/ that a document links to."""
    prose = FENCED.sub("", markdown)
    paths = {resolve(source, link["target"]) for link in LINK.finditer(prose)}
    return {path for path in paths if not path.startswith("docs/")}


def lead_on(root: Path, source: str, markdown: str) -> str:
    """A document with links that lead to pages of the site.

    Args:
        root: the tree.
        source: the document's path in it.
        markdown: its text.
    """
    place = posixpath.dirname(in_site(source)) or "."

    def lead(link: re.Match[str]) -> str:
        path = resolve(source, link["target"])
        if (root / path).is_dir():
            return link["text"]
        return f"[{link['text']}]({posixpath.relpath(in_site(path), place)}{link['anchor'] or ''})"

    parts = re.split(FENCED, TRANSCRIPT.sub("```text", markdown))
    # of three parts each: prose, a fenced block, the fence alone
    for at in range(0, len(parts), 3):
        parts[at] = LINK.sub(lead, parts[at])
    return "".join(parts[at] for at in range(len(parts)) if at % 3 != 2)


def page_text(root: Path, path: str) -> str:
    """The markdown of the page for a file outside of docs/."""
    text = (root / path).read_text("utf-8")
    if path.endswith(".md"):
        return lead_on(root, path, text)
    suffix = Path(path).suffix
    return f"# `{path}`\n\n````{LANGUAGES.get(suffix, suffix[1:])}\n{text.rstrip()}\n````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside of docs/ that a document links to, or that such a page links to."""
    root = Path(config.config_file_path).parent
    documents = files.documentation_pages()
    waiting = {path for file in documents for path in linked(f"docs/{file.src_uri}", file.content_string)}
    added: set[str] = set()
    while waiting:
        path = waiting.pop()
        added.add(path)
        if (root / path).is_file():  # a link to what is not there is reported by MkDocs
            content = page_text(root, path)
            page = File.generated(config, in_site(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(page)
            if path.endswith(".md"):
                waiting |= linked(path, (root / path).read_text("utf-8")) - added
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a document to these pages."""
    source = page.file.src_uri
    if source.startswith(f"{FOLDER}/"):
        return markdown
    return lead_on(Path(config.config_file_path).parent, f"docs/{source}", markdown)
