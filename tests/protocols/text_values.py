"""
Values of the Construct classes of the text protocols, for the shared trials.
"""

from hypothesis import strategies as st

from protocols import graphite, influx, statsd, syslog

_WORDS = st.text(st.sampled_from("abcXYZ019._-é"), min_size=1, max_size=8)
_TEXTS = st.text(st.sampled_from("ab,= |#:\\\"'\té[]<>{}01n"), max_size=12)
_NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(float),
    st.floats(allow_nan=False, allow_infinity=False),
)
_MOMENTS = st.none() | st.integers(0, 2**40)
_TAGS = st.lists(st.one_of(_WORDS, st.tuples(_WORDS, _WORDS).map(":".join)), max_size=3)


def _or_none(strategy):
    return st.none() | strategy


_COMMON = {
    "tags": _TAGS,
    "container": _or_none(_WORDS),
    "extensions": st.lists(_WORDS.map("e:{}".format), max_size=2),
}
_MOMENT_AND_HOST = {"timestamp": _MOMENTS, "hostname": _or_none(_WORDS)}


@st.composite
def metrics(draw):
    """Metrics of StatsD, as they can be written."""
    kind = draw(st.sampled_from(sorted(statsd.TYPES)))
    metric = statsd.Metric(
        draw(_WORDS),
        kind,
        sample_rate=draw(st.sampled_from([1.0, 0.5, 0.01, 1e-5])),
        timestamp=draw(_MOMENTS),
        **{name: draw(values) for name, values in _COMMON.items()},
    )
    if kind == "s":
        metric.member = draw(_WORDS)
        return metric
    metric.values = draw(st.lists(_NUMBERS, min_size=1, max_size=3))
    if kind == "g":
        metric.relative = draw(st.booleans())
        if not metric.relative:
            metric.values = [abs(value) for value in metric.values]
    return metric


_EVENTS = st.builds(
    statsd.Event,
    _TEXTS,
    _TEXTS.map(lambda text: f"{text}\n{text}"),
    aggregation_key=_or_none(_WORDS),
    priority=st.sampled_from([None, "low", "normal"]),
    source_type=_or_none(_WORDS),
    alert_type=st.sampled_from([None, "error", "info"]),
    **_MOMENT_AND_HOST,
    **_COMMON,
)
_CHECKS = st.builds(
    statsd.ServiceCheck,
    _WORDS,
    st.integers(0, 3),
    message=_or_none(_TEXTS),
    **_MOMENT_AND_HOST,
    **_COMMON,
)
_PATHS = st.builds(
    graphite.Metric,
    _WORDS,
    _NUMBERS,
    _or_none(st.integers(0, 2**40).map(float)),
    st.dictionaries(_WORDS, _WORDS, max_size=3),
)
_FIELDS = st.one_of(
    _NUMBERS,
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1).map(influx.Unsigned),
    st.booleans(),
    _TEXTS.map(lambda text: f"{text}\n{text}"),
)
_NAMES = st.text(st.sampled_from("ab, =é"), min_size=1, max_size=6)


@st.composite
def points(draw, unit):
    """Points, as they can be written with timestamps of a unit."""
    moment = draw(st.none() | st.integers(-(10**9), 10**9))
    return influx.Point(
        draw(_NAMES),
        draw(st.dictionaries(_NAMES, _FIELDS, min_size=1, max_size=3)),
        draw(st.dictionaries(_NAMES, _NAMES, max_size=3)),
        None if moment is None else moment * unit,
    )


_ELEMENTS = st.builds(
    syslog.Element,
    st.sampled_from(["origin", "x@32473"]),
    st.lists(st.tuples(_WORDS, _TEXTS).map(list), max_size=2),
)
_ASCII = st.text(st.sampled_from("abc019.-"), min_size=2, max_size=8)
_PRIORITIES = {
    "facility": st.sampled_from(syslog.Facility),
    "severity": st.sampled_from(syslog.Severity),
}
_NEW = st.builds(
    syslog.Entry,
    _TEXTS,
    timestamp=st.sampled_from([None, "2003-10-11T22:14:15.003Z"]),
    hostname=_or_none(_ASCII),
    app_name=_or_none(_ASCII),
    procid=_or_none(_ASCII),
    msgid=_or_none(_ASCII),
    structured_data=st.lists(_ELEMENTS, max_size=2),
    **_PRIORITIES,
)
_OLD = st.builds(
    syslog.Entry,
    _WORDS,
    version=st.none(),
    timestamp=st.sampled_from(["Oct 11 22:14:15", "2003-10-11T22:14:15.003Z"]),
    hostname=st.sampled_from([None, "host", "192.0.2.1", "fe80::1"]),
    app_name=st.sampled_from(["su", "postfix/smtpd", "%ASA-6-302013"]),
    procid=_or_none(_ASCII),
    **_PRIORITIES,
)
_CISCO = st.builds(
    syslog.Entry,
    _WORDS,
    version=st.none(),
    sequence=st.integers(0, 10**9),
    timestamp=st.sampled_from([None, "*Sep 22 13:39:12.252"]),
    hostname=st.sampled_from([None, "R1"]),
    app_name=st.just("%LINK-3-UPDOWN"),
    structured_data=st.lists(_ELEMENTS.filter(lambda e: e.params), max_size=1),
    **_PRIORITIES,
)
_PLAIN = st.builds(
    syslog.Entry,
    _WORDS,
    facility=st.none(),
    severity=st.none(),
    version=st.none(),
)


def _lines(strategy):
    """Mostly one line, which streams can carry too."""
    return st.lists(strategy, min_size=1, max_size=1) | st.lists(
        strategy, min_size=1, max_size=3
    )


KINDS = {
    statsd.MetricLines: lambda _: _lines(st.one_of(metrics(), _EVENTS, _CHECKS)),
    graphite.MetricLines: lambda _: _lines(_PATHS),
    graphite.PickledList: lambda _: st.lists(_PATHS, max_size=3),
    influx.PointLines: lambda node: _lines(points(node.unit)),
    syslog.EntryText: lambda _: st.one_of(_NEW, _OLD, _CISCO, _PLAIN),
}
