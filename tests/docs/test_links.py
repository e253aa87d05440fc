"""Documents speak of files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]*)`")
_MADE = ("bin/postfleet", "var/", "loads/")
"""What a build or a run makes."""


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (document.parent / path).resolve() if path else document
    return not target.exists() or (bool(anchor) and anchor not in anchors(target))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    """Every relative link has a file, and every anchor a heading."""
    links = [link for link in _LINK.findall(document.read_text()) if "://" not in link]
    assert [link for link in links if leads_nowhere(document, link)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_named_files_exist(document: Path) -> None:
    """Every `folder/file` in code type is in the repository, unless a run makes it."""
    named = [path for path in _PATH.findall(document.read_text()) if not path.startswith(_MADE)]
    assert [path for path in named if not (ROOT / path).exists()] == []
