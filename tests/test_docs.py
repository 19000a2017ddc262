"""The documents' links: every file and every heading that they lead to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def headings(path):
    """The anchors of a document as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in headings(file), f"{target}: no such heading"


def test_every_document_is_reached_from_the_readme():
    """Directly, or by a document that is."""
    reached, left = set(), [ROOT / "README.md"]
    while left:
        document = left.pop()
        if document in reached:
            continue
        reached.add(document)
        for target in re.findall(r"\]\(([^)\s]+\.md)[^)]*\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                left.append((document.parent / target).resolve())
    assert set(DOCUMENTS) <= reached
