"""
Who receives flows: nfcapd, a batch route, and the whole collector with its sinks.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.server.processes import FailedError, python
from benchmarks.telemetry.running import BUFFER, Receiver

FLOWS = 30
"""In a datagram."""
SINKS = {"arrow": "arrow:{}/arrow", "parquet": "parquet:{}/parquet?max_age=1"}
SINKS["duckdb"] = "duckdb:{}/flows.duckdb"


def nfcapd() -> Receiver | None:
    """
    The collector that is compared with; `None` if it is not installed.
    """
    found = shutil.which("nfcapd")
    if found is None or shutil.which("nfdump") is None:
        return None

    def command(folder: Path, port: int) -> Sequence[str]:
        words = [found, "-b", "127.0.0.1", "-p", str(port), "-l", str(folder)]
        return [*words, "-B", str(BUFFER), "-t", "3600"]

    return Receiver("nfcapd", command, _nfdump, side="peer")


def nfcapd_version() -> str:
    """
    Say which nfcapd there is.
    """
    done = subprocess.run(["nfcapd", "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"Version: ([\w.]+)", done.stdout + done.stderr)
    return found[1] if found else "unknown"


def _nfdump(folder: Path) -> int:
    flows = 0
    for file in folder.glob("nfcapd.[0-9]*"):
        done = subprocess.run(
            ["nfdump", "-r", str(file), "-I"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        found = re.search(r"Flows: (\d+)", done.stdout)
        if not found:
            raise FailedError(f"nfdump said {done.stderr.strip()!r}")
        flows += int(found[1])
    return flows // FLOWS


def route() -> Receiver:
    """
    Reception and decoding alone.
    """

    def command(folder: Path, port: int) -> Sequence[str]:
        del folder
        return python("benchmarks.telemetry.receive", port, BUFFER)

    def count(folder: Path) -> int:
        return int((folder / "said").read_text()) // FLOWS

    return Receiver("batch route", command, count)


def collector(sink: str, of: str = "") -> Receiver:
    """
    The whole collector.

    Args:
        sink: one of `SINKS`.
        of: what it is given, for its name.
    """

    def command(folder: Path, port: int) -> Sequence[str]:
        return [
            *python("protoserve", "collect", "protocols.netflow:netflow"),
            *("--listen", f"udp://127.0.0.1:{port}", "--json"),
            *("--into", SINKS[sink].format(folder), "--spool", str(folder / "spool")),
            *("--drain", "60"),
        ]

    name = f"collect, {of or sink}"
    return Receiver(name, command, _collected, _is_delivered)


def _is_delivered(folder: Path, since: float) -> bool:
    """
    Say whether sinks have everything, by what the collector says each second.
    """
    lines = (folder / "said").read_text().rpartition("\n")[0].split("\n")
    if not lines[-1]:
        return False
    said = json.loads(lines[-1])
    waiting = said["in_flight"] + sum(sink["lag"] for sink in said["sinks"])
    # What sinks say of their lag may be a second old.
    return not waiting and float(said["time"]) > since + 1.0


def _collected(folder: Path) -> int:
    said = json.loads((folder / "said").read_text().splitlines()[-1])
    lost = {k: v for k, v in said["dropped"].items() if v and k != "kernel"}
    if lost or said["in_flight"]:
        raise FailedError(f"dropped {lost}, in flight {said['in_flight']}")
    return int(said["rows"]) // FLOWS
