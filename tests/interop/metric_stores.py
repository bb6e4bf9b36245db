"""
Servers of metrics that others wrote, run as `tests.interop.receivers` runs others.
"""

import contextlib
import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.interop.conftest import START, free_port
from tests.interop.receivers import Receiver, listening, url_of

# StatsD ------------------------------------------------------------------------


@contextlib.contextmanager
def statsd(path: str, folder: Path) -> Iterator[Receiver]:
    """
    Run StatsD's own server: `stored("gauges")` has what it shows, as text.
    """
    ports = {name: free_port() for name in ("udp", "tcp", "ask")}
    at = {"address": "127.0.0.1"}
    servers = [
        {"server": f"./servers/{name}", "port": ports[name], **at}
        for name in ("udp", "tcp")
    ]
    config = {
        "servers": servers,
        "mgmt_address": "127.0.0.1",
        "mgmt_port": ports["ask"],
        "backends": [],
        "flushInterval": 3_600_000,  # so that what came is kept until it is asked for
        "automaticConfigReload": False,
    }
    file = folder / "config.js"
    file.write_text(json.dumps(config))

    def stored(kind):
        with socket.create_connection(("127.0.0.1", ports["ask"]), START) as sock:
            sock.sendall(f"{kind}\n".encode())
            with sock.makefile("r", encoding="utf-8") as lines:
                told = "".join(iter(lines.readline, "END\n"))
        return dict(re.findall(r"'([\w.]+)': (\[.*?\]|[-\d.]+)", told))

    with listening(
        [path, file],
        folder,
        udp=[ports["udp"]],
        tcp=[ports["tcp"], ports["ask"]],
    ):
        urls = {name: url_of(name, ports[name]) for name in ("udp", "tcp")}
        yield Receiver(urls, stored, folder)


# Graphite ----------------------------------------------------------------------

_CARBON = """
[cache]
STORAGE_DIR = {folder}
LOCAL_DATA_DIR = {folder}/whisper
CONF_DIR = {folder}
LOG_DIR = {folder}
PID_DIR = {folder}
USER =
MAX_CREATES_PER_MINUTE = inf
ENABLE_TAGS = False
TAG_HASH_FILENAMES = False
ENABLE_UDP_LISTENER = True
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {tcp}
UDP_RECEIVER_INTERFACE = 127.0.0.1
UDP_RECEIVER_PORT = {udp}
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = {pickle}
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {query}
"""
_SCHEMAS = """
[all]
pattern = .*
retentions = 60s:1d
"""


@contextlib.contextmanager
def carbon(path: str, fetch: str, folder: Path) -> Iterator[Receiver]:
    """
    Run carbon: `stored("PATH/OF/METRIC")` gives its values by their times.
    """
    ports = {name: free_port() for name in ("udp", "tcp", "pickle", "query")}
    config = folder / "carbon.conf"
    config.write_text(_CARBON.format(folder=folder, **ports))
    (folder / "storage-schemas.conf").write_text(_SCHEMAS)

    def stored(name):
        files = list((folder / "whisper").glob(f"{name}.wsp"))
        if not files:
            return {}
        done = subprocess.run(
            [fetch, "--json", str(files[0])],
            capture_output=True,
            check=True,
            timeout=START,
        )
        told = json.loads(done.stdout)
        times = range(told["start"], told["end"], told["step"])
        values = zip(times, told["values"], strict=True)
        return {time: value for time, value in values if value is not None}

    command = [path, f"--config={config}", "--nodaemon", "start"]
    with listening(
        command,
        folder,
        udp=[ports["udp"]],
        tcp=[ports["tcp"], ports["pickle"], ports["query"]],
    ):
        urls = {name: url_of(name, ports[name]) for name in ("udp", "tcp")}
        yield Receiver(
            {**urls, "pickle": url_of("tcp", ports["pickle"])}, stored, folder
        )


# InfluxDB ----------------------------------------------------------------------

_INFLUXD = """
reporting-enabled = false
bind-address = "127.0.0.1:{own}"
[meta]
dir = "{folder}/meta"
[data]
dir = "{folder}/data"
wal-dir = "{folder}/wal"
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{http}"
[[udp]]
enabled = true
bind-address = "127.0.0.1:{nanoseconds}"
database = "points"
batch-timeout = "20ms"
[[udp]]
enabled = true
bind-address = "127.0.0.1:{seconds}"
database = "points"
batch-timeout = "20ms"
precision = "s"
"""


@contextlib.contextmanager
def influxd(path: str, folder: Path) -> Iterator[Receiver]:
    """
    Run InfluxDB 1: `stored("SELECT …")` gives a dict for each point.
    """
    ports = {name: free_port() for name in ("own", "http", "nanoseconds", "seconds")}
    config = folder / "influxdb.conf"
    config.write_text(_INFLUXD.format(folder=folder, **ports))

    def stored(query):
        asked = urllib.parse.urlencode({"db": "points", "epoch": "ns", "q": query})
        url = f"http://127.0.0.1:{ports['http']}/query?{asked}"
        with urllib.request.urlopen(url, timeout=START) as answer:
            (result,) = json.load(answer)["results"]
        return [
            dict(zip(series["columns"], values, strict=True))
            for series in result.get("series", ())
            for values in series["values"]
        ]

    with listening(
        [path, "-config", config],
        folder,
        udp=[ports["nanoseconds"], ports["seconds"]],
        tcp=[ports["http"]],
    ):
        units = ("nanoseconds", "seconds")
        yield Receiver(
            {unit: url_of("udp", ports[unit]) for unit in units}, stored, folder
        )
