"""
The servers' benchmark measures what it says, and believes no server.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.codec.rows import Reach
from benchmarks.server import figures, measure, page
from benchmarks.server.build import BuildError, build
from benchmarks.server.loads import LOADS
from benchmarks.server.measure import Bench, Effort, Found, Slice
from benchmarks.server.servers import Server

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None,
    reason="the benchmark needs Linux and a C compiler",
)

SHORT = Effort(1, 1, 0.02, 200, 20, 0.02)

WRONG = """
import socket, sys
kind, port, fault = sys.argv[1:]
def changed(data):
    data = bytearray(data)
    data[6 if kind == "udp" else 2] |= 0x80
    if fault == "content":
        data[-1] ^= 1
    elif fault == "ident":
        data[3] ^= 1
    elif fault == "kind":
        data[6 if kind == "udp" else 2] ^= 0x40
    elif fault == "size":
        data = data[:-1]
    return bytes(data)
if kind == "udp":
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", int(port)))
    print("ready", flush=True)
    while True:
        data, address = sock.recvfrom(2048)
        sock.sendto(changed(data), address)
server = socket.create_server(("127.0.0.1", int(port)))
print("ready", flush=True)
while True:
    sock, _ = server.accept()
    with sock:
        while data := sock.recv(15):
            sock.sendall(changed(data))
"""


def load_named(key):
    return next(load for load in LOADS if load.key == key)


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    build(folder)
    return folder


@pytest.fixture
def bench(programs):
    return Bench(programs, SHORT, lambda _text: None)


def run(*arguments, script=None):
    start = ["-m", "benchmarks.server"] if script is None else ["-c", script]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )


def found(name, key, rate=0.0, failure="", memory=()):
    side = "ours" if name.startswith("protoserve") else "hand"
    slices = [Slice(i, int(rate), 1.0, 1.0, 50.0, 60.0) for i in range(3) if rate]
    return Found(
        Server(name, side, (key,)), load_named(key), slices, list(memory), failure
    )


class TestPrograms:
    def test_every_program_compiles_without_a_warning(self, tmp_path, monkeypatch):
        """
        The C programs are clean.
        """
        monkeypatch.setattr(
            "benchmarks.server.build.FLAGS", ("-O1", "-Wall", "-Wextra", "-Werror")
        )
        build(tmp_path)
        names = {"load_tcp", "load_churn", "load_idle", "load_udp"}
        assert names | {"limit_tcp", "limit_udp"} == {
            p.name for p in tmp_path.iterdir()
        }

    def test_a_missing_compiler_is_one_error_that_says_what_to_do(
        self, tmp_path, monkeypatch
    ):
        """
        It names the program that cannot be run.
        """
        monkeypatch.setenv("CC", "/no/such/compiler")
        with pytest.raises(BuildError, match="/no/such/compiler cannot be run"):
            build(tmp_path)


class TestWrongServers:
    @pytest.mark.parametrize("fault", ["content", "ident", "kind"])
    @pytest.mark.parametrize("key", ["tcp-64x1", "churn", "udp-answer"])
    def test_a_wrong_reply_fails_the_row(self, bench, tmp_path, key, fault):
        """
        Every byte of every reply counts.
        """
        one = self._run(bench, tmp_path, key, fault)
        assert "replies were wrong" in one.failure
        assert one.slices == []

    @pytest.mark.parametrize("key", ["churn", "udp-answer"])
    def test_a_short_reply_fails_the_row(self, bench, tmp_path, key):
        """
        A reply without its last byte is wrong.
        """
        assert "replies were wrong" in self._run(bench, tmp_path, key, "size").failure

    def test_the_same_server_without_a_fault_is_measured(self, bench, tmp_path):
        """
        So what is found above is the fault.
        """
        one = self._run(bench, tmp_path, "churn", "none")
        assert one.failure == ""
        assert one.rate > 0

    def test_a_server_that_does_not_start_fails_with_its_own_words(self, bench):
        """
        The last line of its errors is shown.
        """
        command = (sys.executable, "-c", "raise SystemExit('no luck today')")
        (one,) = bench.run(
            load_named("churn"), [Server("none", "peer", (), program=command)]
        )
        assert one.failure == "it has ended: no luck today"

    def _run(self, bench, tmp_path, key, fault):
        load = load_named(key)
        script = tmp_path / "wrong.py"
        kind = "udp" if key.startswith("udp") else "tcp"
        script.write_text(WRONG)
        wrapper = tmp_path / "wrong"
        wrapper.write_text(
            f'#!/bin/sh\nexec {sys.executable} {script} {kind} "$1" {fault}\n'
        )
        wrapper.chmod(0o755)
        if key == "tcp-64x1":  # the script serves one connection at a time
            load = attrs_evolved(load, ("load_tcp", "PORT", "1", "1"))
        server = Server("wrong", "peer", (key,), program=(str(wrapper),))
        (one,) = bench.run(load, [server])
        return one


def attrs_evolved(load, generator):
    import attrs

    return attrs.evolve(load, generator=generator)


@pytest.mark.slow
class TestProgram:
    @pytest.mark.parametrize(
        ("load", "servers"),
        [
            ("tcp-64x32", ["C, epoll", "by hand, asyncio", "protoserve, loop"]),
            ("udp-ingest", ["C, recvmmsg", "by hand, recvmmsg", "protoserve, single"]),
            ("udp-answer", ["UDPServer", "by hand, recvmmsg", "protoserve, loop"]),
            ("idle", ["by hand, asyncio", "protoserve, threads"]),
        ],
    )
    def test_one_load_runs_from_end_to_end(self, tmp_path, load, servers):
        """
        Every server that was asked for has a number, in the table and in the file.
        """
        file = tmp_path / "numbers.json"
        options = ["--quick", "--rounds", "1", "--json", str(file)]
        done = run(*options, "--only", load, *servers)
        assert done.returncode == 0, done.stderr
        whole = json.loads(file.read_text())
        assert servers == [one["server"] for one in whole["servers"]]
        for one in whole["servers"]:
            assert one["failure"] is None, one
            assert (one["bytes"] or one["rate"]) > 0
            assert one["server"] in done.stdout

    def test_an_unknown_name_is_one_error(self):
        """
        It lists the names that there are.
        """
        done = run("--only", "tcp-64x33")
        assert done.returncode == 2
        assert "there is no 'tcp-64x33'" in done.stderr
        assert "tcp-64x32" in done.stderr

    def test_a_regression_is_named_and_exits_with_1(self):
        """
        What cannot be reached is measured again, and then said.
        """
        script = (
            "import sys\n"
            "from benchmarks.codec.rows import Reach\n"
            "from benchmarks.server import __main__ as program, figures\n"
            "check = figures.Figure('tcp-1x1', figures.LOOP, 'by hand, asyncio',\n"
            "    Reach(0.01))\n"
            "figures.CHECKS = (check,)\n"
            "sys.exit(program.main(sys.argv[1:]))\n"
        )
        done = run("--quick", "--check", "--rounds", "1", script=script)
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("worse than ≤ 0.01: tcp-1x1, protoserve, loop")

    def test_an_interrupt_leaves_nothing_behind(self):
        """
        All servers and load generators are ended, and the status says why.
        """
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server", "--only", "tcp-64x1"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            children = until(lambda: started_by(process.pid))
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == 130, errors
        assert b"Traceback" not in errors
        assert [] == [pid for pid in children if Path(f"/proc/{pid}").exists()]


def started_by(pid):
    """
    Give the servers that a benchmark has started, once there are some.
    """
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    children = [int(word) for word in tasks.read_text().split()]
    serving = [pid for pid in children if os.getpgid(pid) == pid]
    return serving if len(serving) > 2 else []


def until(find):
    deadline = time.monotonic() + PATIENCE
    while not (value := find()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return value


class TestFigures:
    def judge(self, figure, *all_found):
        (row,) = figures.judge([figure], {figure.load: all_found})
        return row

    def test_the_best_of_several_servers_counts(self):
        """
        The row names it.
        """
        figure = figures.Figure(
            "udp-answer",
            ("protoserve, single", "protoserve, loop"),
            "UDPServer",
            Reach(1.6, most=False),
        )
        row = self.judge(
            figure,
            found("UDPServer", "udp-answer", 100),
            found("protoserve, single", "udp-answer", 120),
            found("protoserve, loop", "udp-answer", 170),
        )
        assert (row.name, row.number) == ("protoserve, loop / UDPServer", 1.7)
        assert row.met()

    def test_a_failed_server_does_not_meet_its_figure(self):
        """
        The row says why.
        """
        figure = figures.Figure("churn", figures.LOOP, "by hand, uvloop", Reach(9))
        row = self.judge(
            figure,
            found("by hand, uvloop", "churn", 100),
            found("protoserve, loop", "churn", 50, failure="it has ended"),
        )
        assert row.met() is False
        assert row.note == "protoserve, loop: it has ended"

    def test_a_server_that_failed_is_told_of_beside_a_better_one(self):
        """
        That another one did well hides nothing.
        """
        ours = ("protoserve, batch", "protoserve, loop")
        figure = figures.Figure("churn", ours, "by hand, uvloop", Reach(9))
        row = self.judge(
            figure,
            found("by hand, uvloop", "churn", 100),
            found("protoserve, batch", "churn", failure="it has ended"),
            found("protoserve, loop", "churn", 50),
        )
        assert row.number == 0.5
        assert row.note == "protoserve, batch: it has ended"

    def test_memory_is_judged_by_itself(self):
        """
        Bytes are compared with the bound.
        """
        figure = figures.Figure("idle", figures.LOOP, "", Reach(4096))
        loop = "protoserve, loop"
        assert self.judge(figure, found(loop, "idle", memory=[4000.0])).met()
        assert not self.judge(figure, found(loop, "idle", memory=[5000.0])).met()

    def test_a_median_of_rounds_ignores_one_bad_round(self):
        """
        Ratios are taken round by round.
        """
        ours, hand = found("protoserve, loop", "churn"), found("hand", "churn")
        for number, rate in enumerate((80, 2, 80, 80, 80)):
            hand.slices.append(Slice(number, 100, 1.0, 1.0, 1.0, 1.0))
            ours.slices.append(Slice(number, rate, 1.0, 1.0, 1.0, 1.0))
        assert ours.against(hand).median == pytest.approx(0.8)


class TestPage:
    def test_the_page_says_which_figures_are_met(self):
        """
        Each load has its sentence and its table.
        """
        key = "churn"
        all_found = [
            found("C, epoll", key, 200),
            found("ThreadingTCPServer", key, 50),
            found("by hand, uvloop", key, 150),
            found("protoserve, loop", key, 100),
        ]
        rows = list(figures.judge(figures.FIGURES, {key: all_found}))
        about = {
            "command": "python -m benchmarks.server",
            "date": "today",
            "cores": 2,
            "processor": "one",
            "memory": 2**31,
            "system": "Linux",
            "load": 0.1,
            "python": "CPython",
            "versions": {"protoserve": "1"},
        }
        content = page.Content(
            about, measure.FULL, rows, [(load_named(key), all_found)], [], [], "", []
        )
        text = "\n".join(page.lines(content))
        assert "0 of 2 are met" in text
        assert load_named(key).seen in text
        assert "| **protoserve, loop** | 0.1 | 0.50 (0.50-0.50) | 2.00" in text
        assert "there is no such mode" in text
