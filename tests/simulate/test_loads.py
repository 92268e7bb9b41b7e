"""What is sent: its lengths, its times, and files that say both."""

import numpy as np
import pytest

import meshwise as mw
from meshwise.errors import InputError
from meshwise.simulate.loads.arrivals import Arrivals, arrivals_of, is_trace, request_rate
from meshwise.simulate.loads.drawn import drawn, drawn_lengths, drawn_times
from meshwise.simulate.loads.traces import read_trace

LOAD = mw.Serving(isl=1000, osl=100, concurrency=8, prefix_hit=0.25)


@pytest.mark.parametrize(("spread", "least"), [(0.0, 1000), (0.2, 800), (1.0, 1)])
def test_lengths_are_spread_evenly_below_the_longest(spread, least):
    found = drawn_lengths(np.random.default_rng(0), 20_000, 1000, spread)
    assert (found.min(), found.max()) == pytest.approx((least, 1000), abs=2)
    assert found.mean() == pytest.approx((least + 1000) / 2, rel=0.01)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_burstiness(burstiness):
    """A gamma distribution of shape B: mean 1 / rate, variance of (rate · gap) 1 / B."""
    gaps = np.diff(drawn_times(np.random.default_rng(0), 100_000, 5.0, burstiness))
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(1.0 / burstiness, rel=0.05)


def test_replicas_share_arrivals_in_turn():
    one = drawn(LOAD, 4000, Arrivals(40.0), 1, 0)
    four = drawn(LOAD, 1000, Arrivals(40.0), 4, 0)
    assert four.arrival == one.arrival[::4]
    assert len(four.prompt) == 1000
    assert four.cached[0] == int(four.prompt[0] * 0.25)


def test_a_seed_draws_the_same_and_another_another():
    assert drawn(LOAD, 50, None, 1, 3) == drawn(LOAD, 50, None, 1, 3)
    assert drawn(LOAD, 50, None, 1, 3) != drawn(LOAD, 50, None, 1, 4)


def test_arrivals_are_named():
    assert arrivals_of("poisson", 3.0) == Arrivals(3.0)
    assert arrivals_of("gamma:0.5", 3.0) == Arrivals(3.0, 0.5)
    assert Arrivals(3.0, 0.5).words == "gamma:0.5"
    assert is_trace("requests.csv")
    assert not is_trace("gamma:0.5")
    with pytest.raises(
        InputError, match=r"gamma:0: the burstiness '0' is not from 0.01 to 100"
    ) as caught:
        arrivals_of("gamma:0", 3.0)
    assert (caught.value.value, caught.value.nearest) == ("gamma:0", "gamma:0.01")
    for bad in ("gamma", "gamma:", "gamma:0", "gamma:-1", "gamma:x", "gamma:nan", "poisson:2"):
        with pytest.raises(InputError) as error:
            arrivals_of(bad, 3.0)
        assert error.value.field == "arrivals"


@pytest.mark.parametrize("bad", [0, -1, "nan", "x", 1e9, None, True])
def test_rates_are_above_nothing(bad):
    with pytest.raises(InputError) as error:
        request_rate(bad)
    assert error.value.field == "request_rate"


def written(folder, text):
    path = folder / "requests.csv"
    path.write_text(text)
    return str(path)


def test_a_trace_is_read_with_a_header_or_without(tmp_path):
    rows = "10.5,100,20\n11,50,5\n\n11,60,1\n"
    plain = read_trace(written(tmp_path, rows), "arrivals")
    assert plain.arrival == (0.0, 0.5, 0.5)
    assert (plain.prompt, plain.answer) == ((100, 50, 60), (20, 5, 1))
    assert plain.rate == pytest.approx(4.0)
    assert read_trace(written(tmp_path, "arrival,input,output\n" + rows), "arrivals") == plain
    assert not plain.cut
    some = read_trace(written(tmp_path, rows), "arrivals", 2)
    assert some.cut
    assert len(some.prompt) == 2


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1,10,10\n0.5,10,10\n", 2),
        ("1,10,10\n2,10\n", 2),
        ("1,10,10\n2,ten,10\n", 2),
        ("1,0,10\n", 1),
        ("1,10,-3\n", 1),
        ("1,10,10\nnan,10,10\n", 2),
        ("-1,10,10\n", 1),
        ("1,10,1000000000\n", 1),
        ("arrival,input,output\n", 1),
        ("", 1),
        ("1,10,10\n" + "x" * 5000 + "\n", 2),
    ],
)
def test_what_is_no_trace_is_refused_by_its_line(tmp_path, text, line):
    with pytest.raises(InputError) as error:
        read_trace(written(tmp_path, text), "arrivals")
    assert f"line {line}:" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.field == "arrivals"


def test_what_is_no_file_is_refused(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "none.csv"), "a\0b"):
        with pytest.raises(InputError):
            read_trace(path, "arrivals")


def test_a_trace_of_any_length_is_read_to_its_bound(tmp_path):
    path = written(tmp_path, "".join(f"{i},10,10\n" for i in range(30_000)))
    found = read_trace(path, "arrivals", 1000)
    assert len(found.arrival) == 1000
    assert found.cut


PLAIN = [(0.0, 100, 20), (0.5, 50, 5), (2.25, 60, 1)]


def same(trace):
    return list(zip(trace.arrival, trace.prompt, trace.answer, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "output,extra,arrival_time,input\n20,x,7,100\n5,x,7.5,50\n1,x,9.25,60\n",
        "Timestamp, Request tokens, Response tokens\n7,100,20\n7.5,50,5\n9.25,60,1\n",
        '"timestamp_ms";"input_length";"output_length"\n7000;100;20\n7500;50;5\n9250;60;1\n',
        "arrived_at\tnum_prefill_tokens\tnum_decode_tokens\n7\t100\t20\n7.5\t50\t5\n9.25\t60\t1\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.5000000,100,20\n"
        "2023-11-16 18:17:04.0000000,50,5\n"
        "2023-11-16 18:17:05.7500000,60,1\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 23:59:59.500000+00:00,100,20\n"
        "2024-05-11 00:00:00+00:00,50,5\n"
        "2024-05-11T00:00:01.750000Z,60,1\n",
        '{"timestamp": 7000, "input_length": 100, "output_length": 20, "hash_ids": [1, 2]}\n'
        '{"timestamp": 7500, "input_length": 50, "output_length": 5, "hash_ids": []}\n\n'
        '{"output_length": 1, "timestamp": 9250, "input_length": 60}\n',
        '{"arrival_time": 7.0, "input_tokens": 100, "output_tokens": 20}\n'
        '{"arrival_time": 7.5, "input_tokens": 50, "output_tokens": 5}\n'
        '{"arrival_time": 9.25, "input_tokens": 60, "output_tokens": 1}\n',
        "\ufeff7,100,20\r\n7.5,50,5\r\n9.25,60,1",
    ],
)
def test_public_traces_are_read_as_they_are(tmp_path, text):
    """Azure's columns, BurstGPT's, Mooncake's lines of JSON (milliseconds), and others' names."""
    assert same(read_trace(written(tmp_path, text), "arrivals")) == PLAIN


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("when,input,output\n1,2,3\n", 1, "no column of arrivals"),
        ("arrival,input\n1,2\n", 1, "no column of tokens out"),
        ("arrival,input,output\n1,2,3\n2,3\n", 3, "not a request"),
        ('{"timestamp": 1, "input_length": 5, "output_length": 5}\n{"timestamp": 2}\n', 2, "not"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5}\n', 1, "not a time"),
        ('{"timestamp": 5, "input_length": 5.5, "output_length": 5}\n', 1, "not a request"),
        ('{"timestamp": -5, "input_length": 5, "output_length": 5}\n', 1, "not a time"),
        ("{" * 5000 + "\n", 1, "not a request"),
        ("1,10,10\ninf,10,10\n", 2, "not a time"),
        ("1,10,10\n1e400,10,10\n", 2, "not a time"),
        ("5,10,10\n4.5,10,10\n", 2, "0.5 s before the request above"),
        ("2024-13-45 00:00:00,10,10\n", 1, "not a request"),
        ("1,10,10\n" + "9" * (1 << 20) + ",1,1\n", 2, "longer than 1 MiB"),
        ("1,10,10\n\x00\x01,10,10\n", 2, "not a request"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, line, why):
    with pytest.raises(InputError) as error:
        read_trace(written(tmp_path, text), "arrivals")
    assert f"line {line}:" in str(error.value)
    assert why in str(error.value)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)


def test_a_file_without_end_is_read_to_the_bound_of_a_run(tmp_path):
    """As much memory and time for any number of lines."""
    from meshwise.simulate.loads.traces import MOST_REQUESTS

    path = tmp_path / "long.csv"
    with path.open("w") as file:
        for start in range(0, MOST_REQUESTS + 100_000, 100_000):
            file.writelines(f"{start + i},10,10\n" for i in range(100_000))
        file.write("and what comes after is not read\n" * 100_000)
    found = read_trace(str(path), "arrivals")
    assert len(found.arrival) == MOST_REQUESTS
    assert found.cut
