"""What a scrape is answered is what the tools of the field read."""

import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client import Counter as TheirCounter
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_plain

from llmspell_fleet.observe.catalogue import EXECUTION_BOUNDS_S
from llmspell_fleet.observe.families import Counter, Family, Histogram, Readings
from llmspell_fleet.observe.metrics import Metrics
from support.repository import ROOT

PAGE = ROOT / "docs" / "reference" / "metrics.md"
OF_PROMETHEUS = "application/openmetrics-text; version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(metrics: "list[Metric]") -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value for metric in metrics for sample in metric.samples
    }


def read(family: Family) -> Samples:
    """The family as OpenMetrics' strict parser reads it."""
    return samples_of(list(read_openmetrics(family.text(is_openmetrics=True) + "# EOF\n")))


def text_of(metrics: Metrics, accept: str = "") -> str:
    return metrics.render(accept)[0].decode()


@pytest.mark.parametrize(
    ("case", "accept", "expected"),
    [
        ("curl", "*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("nobody said", "", "text/plain; version=0.0.4; charset=utf-8"),
        ("Prometheus 2", OF_PROMETHEUS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("nonsense", "\x00;;=,version=q", "text/plain; version=0.0.4; charset=utf-8"),
        ("a nonsensical version", "text/plain;version=a.b", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_format_is_the_one_that_was_asked_for(metrics: Metrics, case: str, accept: str, expected: str) -> None:
    body, content_type = metrics.render(accept)

    assert content_type == expected
    assert body.endswith(b"# EOF\n") == ("openmetrics" in expected)


def test_both_formats_say_the_same(full_metrics: Metrics) -> None:
    plain = samples_of(list(read_plain(text_of(full_metrics))))
    strict = samples_of(list(read_openmetrics(text_of(full_metrics, OF_PROMETHEUS))))

    ours = {key: number for key, number in strict.items() if not key[0].startswith("python_gc")}
    assert ours
    assert ours == {key: number for key, number in plain.items() if not key[0].startswith("python_gc")}


def test_promtool_has_nothing_to_say(promtool: str, full_metrics: Metrics) -> None:
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text_of(full_metrics),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_reads_the_metrics_of_a_fleet_that_has_just_begun(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text_of(Metrics(version="1")),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_lists_what_there_is(full_metrics: Metrics) -> None:
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| ((?:`\w+`(?:, )?)*) ?\| (.+) \|$", re.MULTILINE)
    documented = {
        name: (kind, tuple(re.findall(r"\w+", labels)), meaning)
        for name, kind, labels, meaning in row.findall(PAGE.read_text())
    }
    there = {family.name: (family.kind, family.labels, family.documentation) for family in full_metrics.families}
    for metric in read_plain(text_of(full_metrics)):
        if metric.name.startswith("python_"):
            there[f"{metric.name}_total"] = (metric.type, tuple(metric.samples[0].labels), metric.documentation)

    assert documented == there


def test_the_registry_holds_the_same(full_metrics: Metrics) -> None:
    held = samples_of(list(full_metrics.registry.collect()))

    assert held.keys() == samples_of(list(read_plain(text_of(full_metrics)))).keys()


@given(value=st.text())
def test_any_label_value_comes_back(value: str) -> None:
    counter = Counter("llmspell_probe_total", "A probe.", ("tenant", "reason"))
    counter.inc(value, value)
    readings = Readings("llmspell_probe", "A probe.", ("tenant",))
    readings.replace({(value,): 1.5})
    histogram = Histogram("llmspell_probe_seconds", "A probe.", (0.5,), ("tenant",))
    histogram.observe(0.25, value)

    assert read(counter) == {("llmspell_probe_total", frozenset({("tenant", value), ("reason", value)})): 1}
    assert read(readings) == {("llmspell_probe", frozenset({("tenant", value)})): 1.5}
    assert read(histogram)["llmspell_probe_seconds_count", frozenset({("tenant", value)})] == 1


@given(values=st.lists(st.floats(min_value=0, max_value=1e6) | st.sampled_from(EXECUTION_BOUNDS_S)))
def test_a_histogram_counts_as_prometheus_own_does(values: list[float]) -> None:
    registry = CollectorRegistry()
    theirs = TheirHistogram("llmspell_probe_seconds", "A probe.", buckets=EXECUTION_BOUNDS_S, registry=registry)
    ours = Histogram("llmspell_probe_seconds", "A probe.", EXECUTION_BOUNDS_S)

    for number in values:
        theirs.observe(number)
        ours.observe(number)

    expected = samples_of(list(registry.collect()))
    assert read(ours) == {key: number for key, number in expected.items() if not key[0].endswith("_created")}


@given(events=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"))))
def test_a_counter_counts_as_prometheus_own_does(events: list[tuple[str, str]]) -> None:
    registry = CollectorRegistry()
    theirs = TheirCounter("llmspell_probe", "A probe.", ["tenant", "reason"], registry=registry)
    ours = Counter("llmspell_probe_total", "A probe.", ("tenant", "reason"))

    for tenant, reason in events:
        theirs.labels(tenant, reason).inc()
        ours.inc(tenant, reason)

    expected = samples_of(list(registry.collect()))
    assert read(ours) == {key: number for key, number in expected.items() if not key[0].endswith("_created")}


@given(number=st.floats(allow_nan=False) | st.integers(min_value=-(2**53), max_value=2**53))
def test_any_number_comes_back(number: float) -> None:
    readings = Readings("llmspell_probe", "A probe.")
    readings.set(number)

    assert read(readings) == {("llmspell_probe", frozenset()): number}


def test_a_scrape_between_two_snapshots_shows_counters_of_this_moment(full_metrics: Metrics) -> None:
    first = text_of(full_metrics)
    full_metrics.loop_lag(0.5)

    assert "llmspell_loop_lag_seconds_count 1" in first
    assert "llmspell_loop_lag_seconds_count 2" in text_of(full_metrics)
