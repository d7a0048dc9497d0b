"""The documentation as a site: built without a warning, complete, and with nothing to be fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

import callstate_client
import callstate_client.sync

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not (find_spec("mkdocs") and find_spec("material")), reason="`make docs` installs MkDocs"),
]


def build(site: Path, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=environ)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """What a page links to, fetches, and can be linked to by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.fetched: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = dict(attrs)
        if at.get("id"):
            self.ids.add(str(at["id"]))
        if tag == "a" and at.get("href"):
            self.links.add(str(at["href"]))
        elif tag == "link" and at.get("rel") not in ("canonical", "prev", "next") and at.get("href"):
            self.fetched.add(str(at["href"]))
        elif at.get("src"):
            self.fetched.add(str(at["src"]))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_each_link_and_anchor_leads_somewhere(pages: dict[Path, Page]) -> None:
    """Those that the generator has made too, of the docstrings for example."""
    broken = []
    for path, page in pages.items():
        for link in page.links | page.fetched:
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            found = pages[target].ids if target in pages else {anchor} if target.exists() else set()
            if not target.exists() or (anchor and anchor not in found):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_nothing_is_fetched_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert {link for page in pages.values() for link in page.fetched if re.match(r"([a-z]+:)?//", link)} == set()


def test_each_public_name_can_be_linked_to(pages: dict[Path, Page]) -> None:
    ids = {name for page in pages.values() for name in page.ids}
    for module in (callstate_client, callstate_client.sync):
        assert {f"{module.__name__}.{name}" for name in module.__all__} - ids == set()


def test_methods_come_with_their_docstrings(site: Path) -> None:
    call = (site / "reference" / "call.html").read_text("utf-8")
    assert 'id="callstate_client.CallHandle.amend_last_turn"' in call
    assert "the last turn of this role, whatever has been said since" in call
    assert 'id="callstate_client.CallHandle.store_closes"' not in call, "for other modules only"


def test_files_outside_of_docs_have_pages(site: Path) -> None:
    assert "recover(" in (site / "tree" / "examples" / "failover.py.html").read_text("utf-8")
    changes = (site / "tree" / "CHANGELOG.html").read_text("utf-8")
    assert 'href="../operations.html#metrics"' in changes


def test_transcripts_are_blocks_whatever_their_surroundings(site: Path) -> None:
    assert "```" not in (site / "protocol.html").read_text("utf-8")


BROKEN = """# A page

[a page](nowhere.md), [a place in one](concepts.md#nowhere), [a file](../nowhere.py)
"""


@pytest.mark.parametrize(
    ("text", "reported"),
    [(BROKEN, ("'nowhere.md'", "#nowhere", "nowhere.py")), ("::: callstate_client.Nobody\n", ("Nobody",))],
    ids=["links", "names"],
)
def test_a_broken_page_fails_the_build(text: str, reported: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("scripts", "client", "sidecar"):
        (tmp_path / name).symlink_to(ROOT / name)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "concepts.md").write_text("# Concepts\n", "utf-8")
    (docs / "index.md").write_text(text, "utf-8")
    config = re.sub(r"^nav:\n(?:  .*\n)*", "", (ROOT / "mkdocs.yml").read_text("utf-8"), flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(config, "utf-8")
    done = build(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert done.returncode == 1, done.stdout + done.stderr
    assert [word for word in reported if word not in done.stderr] == []
