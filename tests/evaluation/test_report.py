import base64
import hashlib
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr_ray.errors import FAULT_MEANINGS, ConfigError, Fault
from cxr_ray.evaluation.localisation import ALL_FINDINGS
from cxr_ray.evaluation.metrics import finding_metrics
from cxr_ray.evaluation.report import ReportSummary, write_report
from tests.evaluation.chromium import Chromium
from tests.evaluation.invented import CONTRACT, FILMS, FINDINGS, STRANGE, Scored, faulted_row, scored_row, write_scores

NAN = float("nan")


@dataclass
class Page(HTMLParser):
    """What a page consists of: its text, its elements and the content of styles and scripts."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    inline: dict[str, list[str]] = field(default_factory=lambda: {"style": [], "script": []})

    def __post_init__(self) -> None:
        super().__init__()
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        self.inline[self._inside].append(data) if self._inside in self.inline else self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@dataclass(frozen=True, slots=True)
class Written:
    path: Path
    summary: ReportSummary
    page: Page

    @property
    def url(self) -> str:
        return self.path.as_uri()


@pytest.fixture(scope="module")
def written(scored: Scored, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A report with everything a report can have."""
    names = ["a.png", "b.png", "c.png", "negative.png"]
    labels = np.array([[1, 0, 1], [0, 1, NAN], [0, 1, 0], [0, 0, 0]], float)
    truth = pd.DataFrame(labels, index=[scored.uri(name) for name in names], columns=list(FINDINGS))
    probabilities = np.array([FILMS[name][0] for name in names])
    labels[:, 2] = np.where(labels[:, 2] == 1, NAN, labels[:, 2])
    metrics = finding_metrics(labels, probabilities, CONTRACT.thresholds, FINDINGS)
    located = pd.DataFrame(
        {"num_true_positives": [4, 0, 0, 4], "num_hits": [3, 0, 0, 3], "rate": [0.75, NAN, NAN, 0.75]},
        index=[*FINDINGS, ALL_FINDINGS],
    )
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    summary = write_report(scored.output, path, truth=truth, metrics=metrics, localisation=located, title="Night & day")
    return Written(path, summary, read(path))


def test_write_report_summary_counts_what_was_written(written: Written) -> None:
    found = written.summary
    assert (found.num_scored, found.num_faulted, found.num_shown, found.num_unreadable) == (6, 3, 5, 1)
    assert found.num_bytes == written.path.stat().st_size
    assert found.target == written.path


def test_write_report_provenance_and_purpose_are_told(written: Written) -> None:
    text = written.page.text
    for part in ("Night & day", "e" * 16, "3: one, two, three", "run-2", "2026-03-14", "input 48 \u00d7 48"):
        assert part in text
    assert "Research software, not a medical device" in text


def test_write_report_accounting_adds_up_in_words(written: Written) -> None:
    text = written.page.text
    assert "10 listed = 6 scored + 3 faulted + 1 already done adds up" in text
    assert "Newest run run-2 , started 2026-03-14T02:00:00Z, took 1 h 2 min 3 s." in text
    assert "holds 9 images under this ensemble: 6 scored and 3 faulted (33.3 %)" in text


def test_write_report_faults_have_meaning_and_examples(written: Written) -> None:
    text = written.page.text
    assert f"corrupt 2 22.2 % {FAULT_MEANINGS[Fault.CORRUPT]}" in text
    assert "side.dcm View Position (0018,5101) is 'LL'." in text
    assert ("code", {}) in written.page.elements


def test_write_report_metrics_undefined_ones_are_dashes(written: Written) -> None:
    text = written.page.text.replace("\u2013", "-")
    assert "Mass 1 3 0.250 1.000 1.000 0.667 1.000 0.667 0.750 3/4" in text
    assert "Nodule / other (small) 0 2 0.000 - - - - 1.000 - 0/0" in text
    assert "Macro mean 1.000 of 2" in text


def test_write_report_strange_names_stay_text(written: Written) -> None:
    tags = [tag for tag, _ in written.page.elements]
    assert (tags.count("script"), tags.count("b")) == (1, 0)
    assert not any("onerror" in attributes for _, attributes in written.page.elements)
    assert STRANGE in written.page.text
    assert "<b>ends</b>" in written.page.text


def test_write_report_refers_to_nothing_outside(written: Written) -> None:
    references = [
        str(attributes[name])
        for _, attributes in written.page.elements
        for name in ("src", "href")
        if name in attributes
    ]
    assert len(references) > 10
    assert [reference for reference in references if not reference.startswith(("data:", "#"))] == []
    style = "".join(written.page.inline["style"])
    assert "@import" not in style
    assert "url(" not in style


def test_write_report_policy_allows_only_its_own_style_and_script(written: Written) -> None:
    (policy,) = [a["content"] for _, a in written.page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    for kind in ("style", "script"):
        (text,) = written.page.inline[kind]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy)
    assert not any("style" in attributes for _, attributes in written.page.elements)


def test_write_report_every_picture_is_described(written: Written) -> None:
    described = [a for tag, a in written.page.elements if tag == "img" or a.get("role") == "img"]
    assert len(described) == 1 + len(FINDINGS) + 4
    assert all(attributes.get("alt") or attributes.get("aria-label") for attributes in described)


def test_write_report_scores_alone_suffice(scored: Scored, tmp_path: Path) -> None:
    write_scores(tmp_path / "out", "a.parquet", [scored_row(scored.uri("a.png"), "1", FILMS["a.png"])])
    write_report(str(tmp_path / "out"), tmp_path / "report.html")
    text = read(tmp_path / "report.html").text
    assert "1 scored and 0 faulted (0.0 %)" in text
    for absent in ("listed", "AUROC", "Truth", "Pointing game"):
        assert absent not in text


@pytest.mark.parametrize("case", ["only faults", "only negatives"])
def test_write_report_nothing_to_show_says_so(scored: Scored, tmp_path: Path, case: str) -> None:
    negative = scored_row(scored.uri("negative.png"), "1", FILMS["negative.png"])
    row = negative if case == "only negatives" else faulted_row("/a", "blank", "All pixels have the same value.")
    write_scores(tmp_path / "out", "a.parquet", [row])
    write_report(str(tmp_path / "out"), tmp_path / "report.html")
    assert "No image has a finding at or above its threshold." in read(tmp_path / "report.html").text


def test_write_report_cap_holds(scored: Scored, tmp_path: Path) -> None:
    summary = write_report(scored.output, tmp_path / "report.html", max_images=2)
    assert summary.num_shown == 2
    assert "2 of 5 images with a finding" in read(tmp_path / "report.html").text


def test_write_report_without_scores_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no scores"):
        write_report(str(tmp_path), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


# From here on in a browser.

_PANELS = "#panels > .panel:not([hidden])"
VISIBLE = f"[...document.querySelectorAll('{_PANELS} h3')].map(e => e.textContent)"
SHOWN = f"[...document.querySelectorAll('{_PANELS} .reading:not([hidden]) .finding')].map(e => e.textContent)"
CHOSEN = ["gone.png", "b.png", STRANGE, "a.png", "c.png"]


def set_control(browser: Chromium, name: str, value: str) -> None:
    """What the browser does when a person changes a select or a slider."""
    browser.js(
        f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        f"(document.querySelector('[data-control={name}]'))"
    )


def style(browser: Chromium, selector: str, name: str) -> Any:
    return browser.js(f"getComputedStyle(document.querySelector({json.dumps(selector)})).{name}")


def test_report_opens_from_disk_without_network_and_without_errors(browser: Chromium, written: Written) -> None:
    browser.open(written.url)
    assert browser.js(VISIBLE) == CHOSEN
    pictures = browser.js(
        "Promise.all([...document.querySelectorAll('image, img')].map(e => { const i = new Image();"
        " i.src = e.getAttribute('href') || e.src; return i.decode().then(() => i.naturalWidth); }))"
    )
    assert len(pictures) == 1 + 4 + 6
    assert min(pictures) > 0
    browser.js("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert [request for request in browser.requests if not request.startswith("data:")] == [written.url]
    assert browser.errors == []


def test_report_policy_stops_what_was_not_written_by_us(browser: Chromium, written: Written, tmp_path: Path) -> None:
    tampered = tmp_path / "tampered.html"
    html = written.path.read_text(encoding="utf-8")
    tampered.write_text(
        html.replace("</main>", "<script>window.injected = 1</script><img src='http://x.test/'></main>")
    )
    browser.open(tampered.as_uri())
    assert browser.js("window.injected === undefined")
    assert any("Content Security Policy" in error for error in browser.errors)


@pytest.mark.parametrize(
    ("fragment", "names"),
    [
        ("finding=Pleural_effusion", ["b.png", "c.png"]),
        ("finding=Nodule%20/%20other%20(small)", [STRANGE]),
        ("votes=3", ["gone.png", "b.png", "a.png"]),
        ("finding=Mass&votes=2", ["b.png", STRANGE]),
        ("finding=Mass&sort=spread", ["b.png", STRANGE, "gone.png", "a.png"]),
        ("finding=Mass&sort=probability", ["gone.png", "a.png", "b.png", STRANGE]),
        ("sort=spread", ["c.png", STRANGE, "b.png", "gone.png", "a.png"]),
        ("finding=Nothing&votes=x&sort=y&opacity=7", CHOSEN),
        ("finding=Pleural_effusion&votes=2", []),
    ],
)
def test_report_address_filters_and_orders(
    browser: Chromium, written: Written, fragment: str, names: list[str]
) -> None:
    browser.open(f"{written.url}#{fragment}")
    assert browser.js(VISIBLE) == names
    assert browser.js("document.querySelector('#nothing').hidden") == bool(names)
    assert browser.errors == []


def test_report_filtered_panels_show_the_finding_asked_for(browser: Chromium, written: Written) -> None:
    browser.open(written.url)
    assert browser.js(SHOWN)[1] == "Pleural effusion"
    set_control(browser, "finding", "Mass")
    assert browser.js(SHOWN) == ["Mass"] * 4
    assert browser.js("location.hash") == "#finding=Mass"
    assert browser.js("document.querySelector('#matching').textContent") == "4 of 5 images"


def test_report_opacity_and_overlay_change_the_pictures(browser: Chromium, written: Written) -> None:
    browser.open(f"{written.url}#opacity=0")
    assert style(browser, ".heat", "opacity") == "0"
    assert browser.js("document.querySelector('[data-control=opacity]').value") == "0"
    set_control(browser, "opacity", "0.85")
    assert style(browser, ".heat", "opacity") == "0.85"
    assert style(browser, ".overlay:not([hidden])", "display") == "inline"
    browser.press("o")
    assert style(browser, ".overlay:not([hidden])", "display") == "none"
    assert browser.js("location.hash") == "#opacity=0.85&overlay=off"
    browser.open(f"{written.url}#overlay=off")
    assert style(browser, ".overlay:not([hidden])", "display") == "none"


def test_report_choice_of_a_finding_switches_reading_and_heat_map(browser: Chromium, written: Written) -> None:
    browser.open(written.url)
    panel = "#panels > .panel[data-index='1']"
    browser.click(f"{panel} input[data-finding=Mass]")
    assert browser.js(SHOWN)[1] == "Mass"
    overlays = f'[...document.querySelectorAll("{panel} .overlay")].map(e => getComputedStyle(e).display)'
    assert browser.js(overlays) == ["none", "inline"]
    browser.press("ArrowUp", 38)
    assert browser.js(SHOWN)[1] == "Pleural effusion"
    assert browser.js(overlays) == ["inline", "none"]


def test_report_enlarged_view_steps_and_gives_the_panel_back(browser: Chromium, written: Written) -> None:
    browser.resize(1400, 900)
    browser.open(f"{written.url}#finding=Mass&sort=probability")
    inside = "document.querySelector('#viewer[open] h3')?.textContent ?? null"
    browser.click("#panels > .panel[data-index='3'] .enlarge")
    assert browser.js(inside) == "a.png"
    assert browser.js("document.querySelector('#viewer .stage').getBoundingClientRect().height") > 700
    browser.press("ArrowRight", 39)
    assert browser.js(inside) == "b.png"
    browser.click("#viewer [data-step='-1']")
    assert browser.js(inside) == "a.png"
    browser.press("Escape", 27)
    browser.until("!document.querySelector('#viewer .panel')")
    assert browser.js(inside) is None
    assert browser.js(VISIBLE) == ["gone.png", "a.png", "b.png", STRANGE]
    assert browser.js("document.activeElement.getAttribute('aria-label')") == "Enlarge a.png"
    assert browser.errors == []


def test_report_address_typed_in_the_enlarged_view_leaves_it(browser: Chromium, written: Written) -> None:
    browser.open(written.url)
    browser.click("#panels > .panel[data-index='3'] .enlarge")
    browser.js("location.hash = 'finding=Pleural_effusion'")
    browser.until("!document.querySelector('#viewer').open")
    assert browser.js(VISIBLE) == ["b.png", "c.png"]
    assert browser.js("document.querySelectorAll('#panels > .panel').length") == len(CHOSEN)


def test_report_reset_shows_everything_again(browser: Chromium, written: Written) -> None:
    browser.open(f"{written.url}#finding=Mass&sort=spread&opacity=0.1")
    browser.click("#gallery > .toolbar [type=reset]")
    assert browser.js(VISIBLE) == CHOSEN
    assert style(browser, ".heat", "opacity") == "0.6"


def test_report_card_leads_to_its_images(browser: Chromium, written: Written) -> None:
    browser.open(written.url)
    browser.click(".card:nth-child(2) .to-gallery a")
    browser.until(f"{VISIBLE}.length < {len(CHOSEN)}")
    assert browser.js(VISIBLE) == ["b.png", "c.png"]
    assert browser.js("document.querySelector('#gallery').getBoundingClientRect().top / innerHeight") < 0.5


def test_report_strange_names_run_nothing(browser: Chromium, written: Written) -> None:
    browser.open(written.url)
    title = browser.js("document.querySelector('#panels > .panel[data-index=\"2\"] h3').title")
    assert title.endswith(STRANGE)
    assert browser.js("document.querySelectorAll('script').length") == 1


def test_report_paper_is_white_and_without_controls_and_night_is_dark(browser: Chromium, written: Written) -> None:
    browser.open(written.url)
    browser.media(scheme="dark")
    dark = style(browser, "body", "backgroundColor")
    browser.media("print", scheme="dark")
    paper = style(browser, "body", "backgroundColor")
    controls = [style(browser, selector, "display") for selector in (".toolbar", "nav", ".enlarge")]
    film = style(browser, ".film", "backgroundColor")
    browser.media()
    assert (dark, paper, film) == ("rgb(14, 17, 21)", "rgb(255, 255, 255)", "rgb(0, 0, 0)")
    assert controls == ["none"] * 3


@pytest.mark.parametrize("width", [1400, 420])
def test_report_page_does_not_scroll_sideways(browser: Chromium, written: Written, width: int) -> None:
    browser.resize(width, 900)
    browser.open(written.url)
    assert browser.js("document.documentElement.scrollWidth") <= width
