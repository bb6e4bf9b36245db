"""
Logs by their URLs.
"""

import contextlib
import sys

import pytest

from protoserve.errors import DeclarationError
from protoserve.telemetry.logs.registry import SCHEMES, open_log
from tests.telemetry.logs.cluster import free_ports


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "flows.duckdb",
            "^expected the URL of a log, as in nats://host:port, found 'fl",
        ),
        ("nat://a:1", "^unknown log 'nat'; did you mean nats\\?$"),
        (
            "mqtt://u:secret@a:1",
            "^unknown log 'mqtt'; known: kafka, nats, redis, redis",
        ),
        ("nats://", "expected HOST:PORT, found no host"),
        ("nats://a:99999", "expected a port in 0..65535"),
    ],
)
def test_refused(url, said):
    """A URL that is no log's is refused in one line, without its password."""
    with pytest.raises(DeclarationError, match=said) as caught:
        open_log(url, name="flows")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_lazy(scheme):
    """Opening a log waits for nobody: it connects when it is used."""
    (port,) = free_ports(1)
    with contextlib.closing(open_log(f"{scheme}://127.0.0.1:{port}", name="flows")):
        pass


@pytest.mark.parametrize(
    ("scheme", "library"),
    [("nats", "nats"), ("kafka", "confluent_kafka"), ("redis", "redis")],
)
def test_missing(scheme, library, monkeypatch):
    """A library that is missing is named, with the extra that brings it."""
    for name in list(sys.modules):
        ours = name.startswith(("protoserve.telemetry.logs.", "protoserve.telemetry._"))
        if name.partition(".")[0] == library or (ours and scheme in name):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    said = f"needs {library}; install it with pip install 'protoserve\\[{scheme}\\]'$"
    with pytest.raises(DeclarationError, match=said):
        open_log(f"{scheme}://127.0.0.1:1", name="flows")
