"""Quantities: round trips, and pint as an oracle."""

import math

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwise import units
from meshwise.errors import InputError, MeshwiseError, closest, shorten

REGISTRY = pint.UnitRegistry()
KINDS = (units.BYTES, units.BANDWIDTH, units.TIME, units.RATE)
# what pint calls ours (it has no FLOP: a count; b is barn there, bit is our b)
SPELT = {
    **{
        p + "B": p + "byte"
        for p in ("", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi")
    },
    **{p + "B/s": p + "byte/s" for p in ("", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi")},
    **{p + "b/s": p + "bit/s" for p in ("", "k", "M", "G", "T")},
    **{p + "bps": p + "bit/s" for p in ("", "k", "M", "G", "T")},
    **{u: u for u in ("s", "ms", "us", "µs", "ns")},
}
SI = {"size": "byte", "bandwidth": "byte/s", "time": "s"}


@pytest.mark.parametrize("kind", KINDS[:3], ids=lambda k: k.name)
@given(data=st.data())
def test_agrees_with_pint(kind, data):
    unit = data.draw(st.sampled_from([u for u in SPELT if u in kind.units]))
    low, high = kind.low / kind.units[unit], kind.high / kind.units[unit]
    number = data.draw(st.floats(low * 1.01, high * 0.99))
    space = data.draw(st.sampled_from(["", " ", "  "]))
    ours = units.parse_quantity(f"{number!r}{space}{unit}", kind, "x")
    theirs = REGISTRY.Quantity(number, SPELT[unit]).to(SI[kind.name]).magnitude
    assert math.isclose(ours, theirs, rel_tol=1e-12)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@given(data=st.data())
def test_every_unit_scales_the_number(kind, data):
    unit, factor = data.draw(st.sampled_from(sorted(kind.units.items())))
    number = data.draw(st.floats(kind.low / factor * 1.01, kind.high / factor * 0.99))
    assert units.parse_quantity(f"{number!r} {unit}", kind, "x") == number * factor


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (units.format_bytes, units.BYTES),
        (units.format_memory, units.BYTES),
        (units.format_bandwidth, units.BANDWIDTH),
        (units.format_time, units.TIME),
        (units.format_rate, units.RATE),
    ],
)
@given(data=st.data())
def test_what_is_written_reads_back(write, kind, data):
    low, high = max(kind.low, 1e-9), kind.high * 0.9
    value = math.exp(data.draw(st.floats(math.log(low), math.log(high))))
    back = units.parse_quantity(write(value).replace(",", ""), kind, "x")
    # three digits; below one ns or one byte of the smallest prefix, one unit of the last of them
    assert math.isclose(back, value, rel_tol=0.006)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("300 GB/s", units.BANDWIDTH, 300e9),
        ("200 Gb/s", units.BANDWIDTH, 25e9),
        ("400Gbps", units.BANDWIDTH, 50e9),
        ("80 GiB", units.BYTES, 80 * 2.0**30),
        ("1.6GB", units.BYTES, 1.6e9),
        ("1_000 B", units.BYTES, 1000),
        (".5 us", units.TIME, 5e-7),
        ("2 µs", units.TIME, 2e-6),
        ("312 TFLOP/s", units.RATE, 312e12),
        ("312 TFLOPS", units.RATE, 312e12),
        ("1979 TOPS", units.RATE, 1979e12),
    ],
)
def test_known_values(text, kind, value):
    assert units.parse_quantity(text, kind, "x") == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@given(
    value=st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.none(),
        st.booleans(),
        st.lists(st.integers()),
        st.binary(),
    )
)
def test_anything_is_a_positive_figure_or_refused(kind, value):
    try:
        found = units.parse_quantity(value, kind, "the field")
    except InputError as error:
        record = error.to_dict()["error"]
        assert record["field"] == "the field"
        assert kind.name in str(error)
        assert record["nearest"]
        assert len(str(error)) < 400
        units.parse_quantity(record["nearest"], kind, "the nearest is legal")
    else:
        assert kind.low <= found <= kind.high


@pytest.mark.parametrize(
    "bad",
    [
        "25",
        "25 GB",
        "25 gb/s",
        "25 GBs",
        "-25 GB/s",
        "nan GB/s",
        "1e999 GB/s",
        "1__0 GB/s",
        "GB/s",
        "",
    ],
)
def test_bandwidth_that_is_none(bad):
    with pytest.raises(InputError, match="x:"):
        units.parse_quantity(bad, units.BANDWIDTH, "x")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1e3, "1.00K"), (174.6e9, "175B"), (1.5e12, "1.50T")],
)
def test_counts(count, text):
    assert units.format_count(count) == text


def test_closest_prefers_what_starts_alike():
    assert closest("h10", ["a10", "h100-80gb-sxm", "l40"]) == ["h100-80gb-sxm"]
    assert closest("gtp2", ["gpt2", "opt-13b"]) == ["gpt2"]
    assert closest("", ["gpt2"]) == []
    assert closest("深度", ["gpt2"]) == []


@given(st.text(max_size=300))
def test_a_shown_value_is_one_short_printable_line(text):
    assert shorten(text).isprintable()
    assert len(shorten(text)) <= 80


def test_shown_values_are_bounded():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, 10**5000, -(10**5000), list(range(10**6)), {"a": deep}, float("nan")):
        assert len(shorten(value)) <= 80
        assert MeshwiseError("m", value=value).to_dict()["error"]["value"] is not None
