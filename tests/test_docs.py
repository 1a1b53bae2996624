"""The pages: links that lead somewhere, pictures that are small, a README that stays short."""

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md", *sorted(DOCS.glob("*.md"))]
PICTURES = sorted((DOCS / "pictures").glob("*"))


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")) if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link).exists()] == []


def test_every_page_is_linked_from_the_readme_or_another_page() -> None:
    linked = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert set(DOCS.glob("*.md")) - linked == set()


def test_pictures_are_small_and_used() -> None:
    used = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert PICTURES
    for path in PICTURES:
        assert path in used, path.name
        assert path.stat().st_size < 300_000, path.name
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert max(image.size) <= 2000


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 230
