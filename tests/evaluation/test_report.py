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
from cxr_ray.evaluation.report.documents import read_document
from cxr_ray.evaluation.report.html import ReportSummary, write_report
from tests.evaluation import documents
from tests.evaluation.chromium import Chromium
from tests.evaluation.invented import FILMS, FINDINGS, STRANGE, Scored, faulted_row, scored_row, write_scores

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
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    summary = write_report(
        scored.output,
        path,
        evaluation=documents.evaluation(),
        audit=documents.audit(),
        drift=documents.drift(),
        truth=truth,
        title="Night & day",
    )
    return Written(path, summary, read(path))


def test_write_report_summary_counts_what_was_written(written: Written) -> None:
    found = written.summary
    assert (found.num_scored, found.num_faulted, found.num_shown, found.num_unreadable) == (6, 3, 6, 1)
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


def test_write_report_measures_have_intervals_and_undefined_ones_are_dashes(written: Written) -> None:
    text = written.page.text.replace("\u2013", "-")
    assert "Mass 12 40 0.910 (0.870 to 0.950) 0.720 (0.680 to 0.760)" in text
    assert "Nodule / other (small) 0 52 - - -" in text
    assert "Macro mean 0.895 (0.855 to 0.935) of 2" in text
    assert "Weighted by positives 0.898 (0.858 to 0.938)" in text


@pytest.mark.parametrize(
    "words",
    [
        "PTC-mode, most frequent label set - 0.700 (0.660 to 0.740)",
        "CTP minus the best member 0.010 (-0.010 to 0.030)",
        "0.010 (-0.010 to 0.030) - - 0.010 (-0.010 to 0.030)",
        "The spread finds errors about as well as plain confidence",
        "spread of the members (best of agreement) 156 14 0.810 (0.770 to 0.850)",
        "plain confidence 0.790 (0.750 to 0.830) 0.780 (0.740 to 0.820) 0.030 (0.020 to 0.040)",
        "spread of the members 0.810 (0.770 to 0.850) 0.800 (0.760 to 0.840) 0.030 (0.020 to 0.040)",
        "Best of agreement minus confidence 0.020 (-0.030 to 0.070) 0.010 (-0.040 to 0.060) 0.004 (-0.006 to 0.014)",
        "agreement of the maps 0 0 - - -",
        "Ensemble minus best member (three) 0.060 (-0.020 to 0.140)",
        "random map 24 0.080 (0.000 to 0.160)",
        "The maps change with the weights.",
        "Grad-CAM, ensemble 0.270 (0.220 to 0.320) 0.580 (0.530 to 0.630)",
        "Mass: AUROC without the lungs is 0.81 (0.74 to 0.88), above chance.",
        "sex macro auroc 0.040 (-0.010 to 0.090) F M",
        "2 of 4 distributions moved by more than 0.2.",
        "probability of Mass 0.310 0.020 0.110 0.210 0.270 drifted",
        "view position LL: The reference has no LL.",
        "manufacturer 0.400 0.020 - ACME 80 % ACME 40 % drifted",
    ],
)
def test_write_report_documents_are_told(written: Written, words: str) -> None:
    assert words in written.page.text.replace("\u2013", "-")


@pytest.mark.parametrize("name", ["evaluation", "audit", "drift"])
def test_write_report_document_of_another_ensemble_is_refused(scored: Scored, tmp_path: Path, name: str) -> None:
    document = getattr(documents, name)()
    (document["current"] if name == "drift" else document)["ensemble_digest"] = "f" * 16
    with pytest.raises(ConfigError, match=f"The {name} is of the ensemble ffffffffffffffff, these scores are of eeee"):
        write_report(scored.output, tmp_path / "report.html", **{name: document})
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("name", "part"), [("evaluation", "curves"), ("audit", "localisation"), ("drift", "overall")])
def test_write_report_document_of_another_form_is_refused(scored: Scored, tmp_path: Path, name: str, part: str) -> None:
    document = getattr(documents, name)()
    del document[part]
    with pytest.raises(ConfigError, match=rf"The {name} is not in the form .* \(KeyError\('{part}'\)\)"):
        write_report(scored.output, tmp_path / "report.html", **{name: document})


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "cannot be read"), ("{", "is no JSON;"), ("[1]", "is no JSON object")]
)
def test_read_document_unusable_one_is_refused(tmp_path: Path, content: str | None, sentence: str) -> None:
    path = tmp_path / "evaluation.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        read_document(path)


def test_write_report_strange_names_stay_text(written: Written) -> None:
    tags = [tag for tag, _ in written.page.elements]
    assert (tags.count("script"), tags.count("b"), tags.count("i")) == (1, 0, 0)
    assert "AP <b> (2)" in written.page.text
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
    assert len(described) >= 1 + len(FINDINGS) + 5
    assert all(attributes.get("alt") or attributes.get("aria-label") for attributes in described)


def test_write_report_scores_alone_suffice(scored: Scored, tmp_path: Path) -> None:
    write_scores(tmp_path / "out", "a.parquet", [scored_row(scored.uri("a.png"), "1", FILMS["a.png"])])
    write_report(str(tmp_path / "out"), tmp_path / "report.html")
    text = read(tmp_path / "report.html").text
    assert "1 scored and 0 faulted (0.0 %)" in text
    for command in ("report --manifest", "audit OUT --ensemble BUNDLE", "drift OUT_A OUT_B"):
        assert f"cxr-ray {command}" in text
    for absent in ("listed =", "Macro", "Truth", "Pointing game"):
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
_ORDERED = f"[...document.querySelectorAll('{_PANELS}')].sort((a, b) => a.style.order - b.style.order)"
VISIBLE = f"{_ORDERED}.map(e => e.querySelector('h3').textContent)"
SHOWN = f"[...document.querySelectorAll('{_PANELS} .reading:not([hidden]) .finding')].map(e => e.textContent)"
CHOSEN = ["gone.png", "b.png", STRANGE, "a.png", "negative.png", "c.png"]


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
    assert len(pictures) == 1 + 5 + 6 + 6  # scale, films, heat maps, and strips with the spread alone
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
        ("finding=Pleural_effusion", ["b.png", "negative.png", "c.png"]),
        ("finding=Nodule%20/%20other%20(small)", [STRANGE, "a.png"]),
        ("votes=3", ["gone.png", "b.png", "a.png"]),
        ("finding=Mass&votes=2", ["b.png", STRANGE]),
        ("finding=Mass&sort=spread", ["b.png", STRANGE, "gone.png", "a.png"]),
        ("finding=Mass&sort=probability", ["gone.png", "a.png", "b.png", STRANGE]),
        ("sort=spread", ["c.png", STRANGE, "b.png", "gone.png", "a.png", "negative.png"]),
        ("sort=lowest", ["negative.png", "a.png", "c.png", STRANGE, "b.png", "gone.png"]),
        ("status=false+negative", ["a.png"]),
        ("status=true+negative", ["negative.png"]),
        ("status=false+positive&finding=Mass", ["b.png"]),
        ("status=called", ["gone.png", "b.png", STRANGE, "a.png", "c.png"]),
        ("status=positive", ["gone.png", STRANGE]),
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
    assert browser.js("document.querySelector('#matching').textContent") == "4 of 6 images"


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
    browser.until("!document.querySelector('#viewer .panel')")
    assert browser.js(VISIBLE) == ["b.png", "negative.png", "c.png"]
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
    assert browser.js(VISIBLE) == ["b.png", "negative.png", "c.png"]
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
