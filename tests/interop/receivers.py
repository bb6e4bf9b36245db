"""
Receivers of logs and values that others wrote, each on ports of the loopback, with a folder
of its own, and what they have stored.

Each is a context manager that gives a `Receiver` once all of its ports listen. What a
receiver has stored is read from where it stores it for anyone: files, its queries.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.interop.conftest import free_port, program
from tests.interop.netflow_tools import until, waiting


@attrs.frozen
class Receiver:
    """
    A program that listens.
    """

    urls: dict[str, str]
    """Where, by transport or by what else is different there."""
    stored: Callable[..., Any]
    """What it has stored so far."""
    folder: Path
    """Its own; the file `log` there is what it says."""


@contextlib.contextmanager
def listening(
    command: Sequence[Any],
    folder: Path,
    *,
    udp: Iterable[int] = (),
    tcp: Iterable[int] = (),
) -> Iterator[None]:
    """
    Run a server, and wait until all of its ports listen.
    """
    log = folder / "log"
    with program(*command, log=log) as process:

        def is_ready():
            assert process.poll() is None, log.read_text("utf-8")
            bound = all(waiting(port) is not None for port in udp)
            return bound and all(map(_accepts, tcp))

        until(is_ready)
        yield
        assert process.poll() is None, log.read_text("utf-8")


def assert_soon(expected, look):
    """
    Assert that something becomes what is expected, within a minute.
    """
    with contextlib.suppress(AssertionError):
        until(lambda: look() == expected)
    found = look()
    assert expected == found, f"expected {expected}, found {found}"


def whole_lines(file: Path) -> list[str]:
    """
    Give a file's lines up to the last that has its end.
    """
    text = file.read_text("utf-8") if file.exists() else ""
    return text.splitlines()[: text.count("\n")]


def _accepts(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def url_of(transport, port):
    return f"{transport}://127.0.0.1:{port}"


# Syslog ------------------------------------------------------------------------

_RSYSLOG = """
global(workDirectory="{folder}")
module(load="imudp")
module(load="imtcp")
input(type="imudp" address="127.0.0.1" port="{udp}")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
template(name="entry" type="list" option.jsonf="on") {{
{properties}
}}
action(type="omfile" file="{folder}/entries" template="entry")
"""
_ENTRY = {
    "message": "msg",
    "facility": "syslogfacility-text",
    "severity": "syslogseverity-text",
    "timestamp": "timereported",
    "hostname": "hostname",
    "app_name": "app-name",
    "procid": "procid",
    "msgid": "msgid",
    "structured_data": "structured-data",
    "version": "protocol-version",
    "transport": "inputname",
}


@contextlib.contextmanager
def rsyslogd(path: str, folder: Path) -> Iterator[Receiver]:
    """
    Run rsyslogd: `stored()` is a dict for each entry.
    """
    udp, tcp = free_port(), free_port()
    properties = "\n".join(
        f'property(outname="{ours}" name="{theirs}" format="jsonf"'
        + (' dateFormat="rfc3339")' if ours == "timestamp" else ")")
        for ours, theirs in _ENTRY.items()
    )
    config = folder / "rsyslog.conf"
    config.write_text(
        _RSYSLOG.format(folder=folder, udp=udp, tcp=tcp, properties=properties)
    )

    def stored():
        return [json.loads(line) for line in whole_lines(folder / "entries")]

    command = [path, "-n", "-f", config, "-i", folder / "pid"]
    with listening(command, folder, udp=[udp], tcp=[tcp]):
        yield Receiver(
            {"udp": url_of("udp", udp), "tcp": url_of("tcp", tcp)}, stored, folder
        )


# collectd ----------------------------------------------------------------------

_COLLECTD = """
Hostname "receiver"
FQDNLookup false
BaseDir "{folder}"
PIDFile "{folder}/pid"
PluginDir "/usr/lib/collectd"
TypesDB "/usr/share/collectd/types.db"
Interval 0.2
WriteThreads 1
LoadPlugin logfile
LoadPlugin csv
LoadPlugin network
LoadPlugin statsd
<Plugin logfile>
  LogLevel info
  File stderr
</Plugin>
<Plugin csv>
  DataDir "{folder}/csv"
  StoreRates false
</Plugin>
<Plugin network>
  <Listen "127.0.0.1" "{plain}">
    SecurityLevel None
  </Listen>
  <Listen "127.0.0.1" "{signed}">
    SecurityLevel Sign
    AuthFile "{folder}/passwords"
  </Listen>
  <Listen "127.0.0.1" "{encrypted}">
    SecurityLevel Encrypt
    AuthFile "{folder}/passwords"
  </Listen>
</Plugin>
<Plugin statsd>
  Host "127.0.0.1"
  Port "{statsd}"
</Plugin>
"""


@contextlib.contextmanager
def collectd(path: str, folder: Path, passwords: dict[str, str]) -> Iterator[Receiver]:
    """
    Run collectd: `stored("HOST/PLUGIN/TYPE-INSTANCE")` is a list of times and values.
    """
    names = ("plain", "signed", "encrypted", "statsd")
    ports = {name: free_port() for name in names}
    lines = [f"{user}: {password}\n" for user, password in passwords.items()]
    (folder / "passwords").write_text("".join(lines))
    config = folder / "collectd.conf"
    config.write_text(_COLLECTD.format(folder=folder, **ports))

    def stored(name):
        found = []
        place = folder / "csv" / name
        for file in sorted(place.parent.glob(f"{place.name}-????-??-??")):
            rows = [line.split(",") for line in whole_lines(file)[1:]]
            found += [tuple(map(float, row)) for row in rows]
        return found

    command = [path, "-f", "-C", config]
    with listening(command, folder, udp=list(ports.values())):
        yield Receiver({k: url_of("udp", v) for k, v in ports.items()}, stored, folder)


# OSC ---------------------------------------------------------------------------


@contextlib.contextmanager
def oscdump(path: str, folder: Path, transport: str) -> Iterator[Receiver]:
    """
    Run liblo's oscdump: `stored()` is a line for each message, without its time.
    """
    port = free_port()

    def stored():
        lines = whole_lines(folder / "log")
        return [line.split(maxsplit=1)[1].strip() for line in lines]

    command = [path, "-L", f"osc.{transport}://:{port}"]
    with listening(command, folder, **{transport: [port]}):
        yield Receiver({transport: url_of(transport, port)}, stored, folder)
