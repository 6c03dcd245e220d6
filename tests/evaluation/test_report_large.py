"""A report of 500 images in a browser: it opens, filters, sorts, shows the members' maps, and prints."""

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ray.evaluation.report.html import write_report
from tests.evaluation import documents
from tests.evaluation.chromium import Chromium
from tests.evaluation.invented import FINDINGS, GRID, film, scored_row, write_scores

NUM_IMAGES = 500
_PANELS = "#panels > .panel:not([hidden])"
_NUMBERS = (
    f"[...document.querySelectorAll('{_PANELS}')].sort((a, b) => a.style.order - b.style.order)"
    ".map(e => Number(e.querySelector(':checked').dataset.KEY))"
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random scores and labels of small films, with the maps of three members."""
    folder = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    rows, labels = [], []
    for number in range(NUM_IMAGES):
        path = folder / f"film_{number:03d}.png"
        film(number).save(path)
        probabilities = tuple(random.random(len(FINDINGS)).round(3).tolist())
        votes = tuple(int(value * 3.99) for value in probabilities)
        row = scored_row(str(path), "1", (probabilities, votes, tuple(random.random(3).round(3).tolist())))
        maps = random.integers(0, 256, (len(row["findings"]), 3 * GRID * GRID), np.uint8)
        rows.append({**row, "member_heatmaps": [own.tobytes() for own in maps]})
        labels.append((random.random(len(FINDINGS)) < probabilities).astype(float))
    write_scores(folder / "out", "a.parquet", rows)
    truth = pd.DataFrame(np.stack(labels), index=[row["uri"] for row in rows], columns=list(FINDINGS))
    target = folder / "report.html"
    write_report(
        str(folder / "out"),
        target,
        evaluation=documents.evaluation(),
        audit=documents.audit(),
        drift=documents.drift(),
        truth=truth,
        max_images=NUM_IMAGES,
    )
    return target


@pytest.fixture
def page(browser: Chromium, large: Path) -> Iterator[Chromium]:
    browser.resize(1280, 900)
    browser.open(large.as_uri())
    yield browser
    assert browser.errors == []
    assert [request for request in browser.requests if not request.startswith("data:")] == [large.as_uri()]
    browser.media()


def set_control(browser: Chromium, name: str, value: str) -> None:
    browser.js(
        f"(e => {{ e.value = '{value}'; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        f"(document.querySelector('[data-control={name}]'))"
    )


def test_large_report_filters_by_status_and_sorts_by_both_numbers(page: Chromium) -> None:
    assert page.js(f"document.querySelectorAll('{_PANELS}').length") == NUM_IMAGES
    for key in ("probability", "spread"):
        set_control(page, "sort", key)
        found = page.js(_NUMBERS.replace("KEY", key))
        assert found == sorted(found, reverse=True)
    set_control(page, "finding", "Mass")
    set_control(page, "status", "false negative")
    statuses = page.js(
        f"[...document.querySelectorAll('{_PANELS} :checked')].map(e => e.dataset.finding + e.dataset.status)"
    )
    assert set(statuses) == {"Massfalse negative"}
    assert 10 < len(statuses) < NUM_IMAGES


def test_large_report_members_lie_side_by_side_when_asked_for(page: Chromium) -> None:
    strip = "document.querySelector('.panel .strip:not([hidden])')"
    assert page.js(f"{strip}.checkVisibility({{contentVisibilityAuto: false}})") is False
    page.press("m")
    assert page.js(f"{strip}.checkVisibility()") is True
    assert page.js(f"[...{strip}.querySelectorAll('figcaption')].map(e => e.textContent)") == [
        *("ensemble", "one", "two", "three", "spread")
    ]
    assert page.js("location.hash") == "#members=on"


def test_large_report_keys_walk_help_and_reach_the_filter(page: Chromium) -> None:
    at = "document.activeElement.dataset.index"
    page.js("document.querySelector('#gallery').scrollIntoView()")
    page.press("j")
    page.press("j")
    assert page.js(at) == "1"
    page.press("k")
    assert page.js(at) == "0"
    page.press("ArrowRight", 39)
    assert page.js(at) == "1"
    page.press("?")
    assert page.js("document.querySelector('#help').open") is True
    page.press("Escape", 27)
    page.until("!document.querySelector('#help').open")
    page.press("/")
    assert page.js("document.activeElement.dataset.control") == "finding"


def test_large_report_is_named_for_those_who_do_not_see_it(page: Chromium) -> None:
    unnamed = (
        "[...document.querySelectorAll('img, svg, button, input, select, dialog, section')]"
        ".filter(e => !e.closest('[aria-hidden=true]') && !e.alt && !e.getAttribute('aria-label')"
        " && !e.getAttribute('aria-labelledby') && !e.textContent.trim() && !e.labels?.length).length"
    )
    assert page.js(unnamed) == 0
    levels = page.js("[...document.querySelectorAll('main :is(h2, h3), h1')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1
    ids = page.js("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_large_report_prints_as_pdf_with_every_section(page: Chromium) -> None:
    page.js("[...document.querySelectorAll('#panels > .panel')].slice(4).forEach(e => e.remove())")
    pdf = base64.b64decode(page.call("Page.printToPDF")["data"])
    assert pdf[:5] == b"%PDF-"
    page.media("print")
    hidden = page.js(
        "[...document.querySelectorAll('section')].filter(e => !e.checkVisibility() || !e.offsetHeight).length"
    )
    dashes = page.js(
        "[...document.querySelectorAll('#agreement .plot > svg .line')].map(e => getComputedStyle(e).strokeDasharray)"
    )
    assert hidden == 0
    assert len(set(dashes)) == len(dashes) == 3
