from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from report import plots

SVG = "{http://www.w3.org/2000/svg}"


def parse(svg: bytes) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    return root


def test_the_same_numbers_give_the_same_bytes_whatever_the_users_style() -> None:
    import matplotlib

    series = [plots.Series("FP32", 10.0, 0.5, (1, 4, 2))]
    first = plots.psnr_distribution(series, 9.0)
    with matplotlib.rc_context({"lines.linewidth": 9, "svg.hashsalt": "other", "font.size": 30}):
        assert plots.psnr_distribution(series, 9.0) == first


def test_no_date_and_no_external_reference() -> None:
    svg = plots.size_bars([plots.FileSize("edge", 2000, 500, True)])
    root = parse(svg)
    assert b"<dc:date>" not in svg
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.endswith("href"):
                assert value.startswith("#")


@pytest.mark.parametrize(
    "counts", [(), (0, 0), (5,), tuple(range(200))], ids=["none", "empty", "one", "many"]
)
def test_any_histogram_is_drawn(counts: tuple[int, ...]) -> None:
    parse(plots.psnr_distribution([plots.Series("a", 0.0, 0.5, counts)], 12.2))


@pytest.mark.parametrize("shares", [[1.0], [0.99, 0.01], [0.5, 0.0, 0.5], [0.9] + [0.001] * 100])
def test_any_lsb_histogram_is_drawn(shares: list[float]) -> None:
    parse(plots.lsb_histogram(range(len(shares)), shares))


def test_an_invalid_latency_is_said_in_the_plot() -> None:
    sound = plots.Latency("edge", 1.0, 1.2, 2.0, True, True)
    noisy = plots.Latency("edge", 1.0, 1.2, 2.0, True, False)
    assert plots.latency_percentiles([sound]) != plots.latency_percentiles([noisy])
    assert b"INVALID" in plots.latency_percentiles([noisy])
    assert b"INVALID" not in plots.latency_percentiles([sound])


def test_labels_are_never_read_as_formulas() -> None:
    parse(plots.size_bars([plots.FileSize("$\\frac{a}$ <b>", 2000, 500, False)]))
    parse(plots.latency_percentiles([]))


def test_shares_of_images_at_or_above_each_edge() -> None:
    edges, shares = plots.at_least_shares(plots.Series("a", 10.0, 0.5, (1, 0, 3)))
    assert edges == [10.0, 10.5, 11.0, 11.5]
    assert shares == [100.0, 75.0, 75.0, 0.0]
