from __future__ import annotations

import functools
import itertools
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from records import attack
from records.errors import OverwriteError
from report.write import write_report
from tests.report.sample_run import Sample, write_sample_run

VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>|[x](javascript:alert(3))`'


class Page(HTMLParser):
    """Collects what the tests ask about, and refuses tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parents: list[tuple[str, ...]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is given twice"
        self.tags.append((tag, dict(attrs)))
        self.parents.append(tuple(self.open))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


HtmlOf = Callable[[Sample], str]


@pytest.fixture(scope="session")
def html_of(tmp_path_factory: pytest.TempPathFactory) -> HtmlOf:
    """Return a function from a sample to its page, which draws each sample's plots once."""

    @functools.cache
    def write(sample: Sample) -> str:
        folder = write_sample_run(tmp_path_factory.mktemp("run"), sample)
        return write_report(folder, folder / "report").html.read_text(encoding="utf-8")

    return write


def test_the_page_is_well_formed_and_whole(html_of: HtmlOf) -> None:
    html = html_of(Sample(splits=("features.3", "avgpool")))
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    identifiers = [a["id"] for _, a in page.tags if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    for _, attributes in page.tags:
        for key in ("aria-labelledby",):
            assert attributes.get(key) is None or attributes[key] in identifiers
    for link in page.all("a"):
        target = link["href"]
        assert target is not None
        assert target.startswith("#")
        assert target[1:] in identifiers


def test_headings_do_not_skip_a_level(html_of: HtmlOf) -> None:
    levels = [int(tag[1]) for tag, _ in Page(html_of(Sample())).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_fetched_and_nothing_runs(html_of: HtmlOf) -> None:
    page = Page(html_of(Sample()))
    assert {"script", "link", "iframe", "object", "embed", "form"}.isdisjoint(
        {tag for tag, _ in page.tags}
    )
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "srcset", "style", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    assert "url(" not in page.style
    assert "@import" not in page.style
    policy = next(m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_picture_is_embedded_and_described(html_of: HtmlOf) -> None:
    page = Page(html_of(Sample()))
    images = page.all("img")
    # Two PNGs; three distributions; sizes; latency on one and two threads; one LSB histogram.
    assert len(images) == 9
    assert sum(str(i["src"]).startswith("data:image/png;base64,") for i in images) == 2
    for image in images:
        assert len(image["alt"] or "") > 20


def test_every_table_scrolls_in_its_own_container(html_of: HtmlOf) -> None:
    page = Page(html_of(Sample()))
    count = 0
    for index, (tag, _) in enumerate(page.tags):
        if tag == "table":
            count += 1
            before, attributes = page.tags[index - 1]
            assert before == "div"
            assert attributes["class"] == "scroll"
            assert attributes["tabindex"] == "0"
    assert count > 15


@pytest.mark.parametrize(
    ("foreground", "background"),
    [
        ("ink", "paper"),
        ("soft", "paper"),
        ("soft", "panel"),
        ("good", "paper"),
        ("good", "good-bg"),
        ("bad", "paper"),
        ("bad", "bad-bg"),
        ("warn", "paper"),
        ("warn", "warn-bg"),
    ],
)
def test_text_has_the_contrast_of_wcag_aa(
    html_of: HtmlOf, foreground: str, background: str
) -> None:
    style = Page(html_of(Sample(leave_out=frozenset({"attack", "bench"})))).style
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", style))
    one, two = _luminance(colours[foreground]), _luminance(colours[background])
    assert (max(one, two) + 0.05) / (min(one, two) + 0.05) >= 4.5


def _luminance(colour: str) -> float:
    """Relative luminance as in WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    sample = Sample(name=HOSTILE, classes=(HOSTILE, "b"), float_nodes=(HOSTILE,), note=HOSTILE)
    folder = write_sample_run(tmp_path, sample)
    written = write_report(folder, folder / "report")
    html, markdown = (p.read_text(encoding="utf-8") for p in (written.html, written.markdown))
    page = Page(html)
    assert "<script" not in html
    assert page.all("script") == []
    assert all("onerror" not in i for i in page.all("img"))
    assert HOSTILE in "".join(page.text)
    outside_code = re.sub(r"```toml.*?```|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    assert "<script" not in outside_code
    assert "<img" not in outside_code
    assert re.search(r"(?<!\\)\]\(javascript", outside_code) is None


def test_a_recipe_cannot_close_its_code_block(tmp_path: Path) -> None:
    write_sample_run(
        tmp_path, Sample(name="```\n# Not a heading", leave_out=frozenset({"attack", "bench"}))
    )
    markdown = write_report(tmp_path, tmp_path / "report").markdown.read_text(encoding="utf-8")
    fences = re.findall(r"^(`{3,})", markdown, flags=re.MULTILINE)
    assert max(map(len, fences)) >= 3
    assert "\n# Not a heading" not in markdown.replace("\\n", " ")


@pytest.mark.parametrize("verdict", ["HOLDS", "DENIED", "INCONCLUSIVE"])
def test_every_verdict_has_its_badge(html_of: HtmlOf, verdict: attack.Verdict) -> None:
    page = Page(html_of(Sample(verdict=verdict)))
    badges = [a["class"] for a in page.all("span") if "badge" in str(a.get("class"))]
    tone = {"HOLDS": "good", "DENIED": "bad", "INCONCLUSIVE": "warn"}[verdict]
    assert badges == [f"badge {tone}"]
    assert "".join(page.text).count(verdict) >= 5  # the badge, and each artifact's row


def test_the_verdict_comes_before_everything_else(html_of: HtmlOf) -> None:
    text = "".join(Page(html_of(Sample())).text)
    first = text.index("DENIED")
    for later in ("three claims", "What an attacker sees", "Size and latency", "How to reproduce"):
        assert first < text.index(later)


@pytest.mark.parametrize("stage", ["train", "bundle", "check", "bench", "attack"])
def test_a_stage_that_was_not_run_is_stated(html_of: HtmlOf, stage: str) -> None:
    text = "".join(Page(html_of(Sample(leave_out=frozenset({stage})))).text)
    assert "Not run" in text or "not run" in text


def test_a_training_without_splits_is_a_report_too(html_of: HtmlOf) -> None:
    text = "".join(Page(html_of(Sample(splits=()))).text)
    assert "none exported" in text
    assert "Not known: no attack was run." in text


def test_an_invalid_bench_is_marked_and_concludes_nothing(html_of: HtmlOf) -> None:
    sound = "".join(Page(html_of(Sample())).text)
    noisy = "".join(Page(html_of(Sample(valid_bench=False))).text)
    assert "INVALID with" not in sound
    assert "INVALID with 1 thread, 2 threads" in noisy
    assert "not given" in noisy
    assert "no speed-up shown" not in noisy


def test_a_failed_gate_is_shown(html_of: HtmlOf) -> None:
    text = "".join(Page(html_of(Sample(gate_passed=False))).text)
    assert "1 of 1 gates failed." in text
    assert "95.12" in text


def test_metrics_keep_their_names(html_of: HtmlOf) -> None:
    text = "".join(Page(html_of(Sample())).text)
    for name in (
        "recon_psnr_db",
        "recon_psnr_pooled_db",
        "recon_ssim",
        "leak_db",
        "parity_sqnr_db",
    ):
        assert name in text
    assert "parity_psnr" not in text
    assert "recon_sqnr" not in text
    assert "1 kB = 1000 bytes" in text


def test_every_attacker_has_its_figures_on_both_pages(tmp_path: Path) -> None:
    sample = Sample(levels=("A0", "A1", "A2", "A3", "A4"), seeds=(0, 1), strongest="A2")
    folder = write_sample_run(tmp_path, sample)
    written = write_report(folder, folder / "report")
    pages = [
        " ".join(" ".join(Page(written.html.read_text(encoding="utf-8")).text).split()),
        written.markdown.read_text(encoding="utf-8"),
    ]
    for page in pages:
        for said in (
            "A2 (strongest), 64 victims, seed 1",
            "A3, 1,000 pairs, seed 0",
            "Query budgets: recon_psnr_db by the attacker",
            "Query budgets of 50,000 were left out",
            "A4 learns from 3,500 images of photos",
            "Re-identified (rank-1)",
            "93.0 %",
            "the server's answers to edge_fp32_onnx",
            "16 bits",
            "A2 attacks the first victims only",
        ):
            assert said in page, said
        assert page.count("14.50 dB") >= 2
    # A3 is quoted with its largest budget.
    assert "A3 15.50 dB" in pages[0]


def test_levels_that_were_not_run_are_not_spoken_of(html_of: HtmlOf) -> None:
    text = " ".join(Page(html_of(Sample())).text)
    for absent in ("Query budgets", "A4 learns", "A2 attacks"):
        assert absent not in text


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    write_sample_run(tmp_path / "run")
    first = write_report(tmp_path / "run", tmp_path / "run" / "report")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    again = write_report(tmp_path / "copy", tmp_path / "copy" / "report", replace=True)
    assert again.html.read_bytes() == first.html.read_bytes()
    assert again.markdown.read_bytes() == first.markdown.read_bytes()


def test_a_report_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write_sample_run(tmp_path, Sample(leave_out=frozenset({"attack", "bench"})))
    write_report(tmp_path, tmp_path / "report")
    with pytest.raises(OverwriteError, match="--force"):
        write_report(tmp_path, tmp_path / "report")
    write_report(tmp_path, tmp_path / "report", replace=True)


def test_markdown_links_the_pictures_from_where_it_lies(tmp_path: Path) -> None:
    write_sample_run(tmp_path / "run")
    out = tmp_path / "elsewhere" / "deep"
    markdown = write_report(tmp_path / "run", out).markdown.read_text(encoding="utf-8")
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", markdown)
    assert len(links) == 2
    assert all((out / link).is_file() for link in links)


def test_markdown_tables_have_as_many_cells_in_every_row(tmp_path: Path) -> None:
    write_sample_run(tmp_path, Sample(note="a | b", float_nodes=("x|y",), name="x | y"))
    markdown = write_report(tmp_path, tmp_path / "report").markdown.read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\|\n)+", markdown, flags=re.MULTILINE)
    assert len(tables) > 15
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
