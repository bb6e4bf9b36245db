"""
Real stores on loopback, for the trials of their sinks; see also the logs' `cluster`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.interop.conftest import missing
from tests.telemetry.logs.cluster import PATIENCE, Server, free_ports, program

HERE = Path(__file__).parent


def importable(name):
    """
    Import a library; skip the test where there is none.
    """
    try:
        return __import__(name)
    except ImportError:
        missing(f"the library {name}")


@contextlib.contextmanager
def gone(server):
    """
    Kill a server, and have it back in the end.
    """
    server.kill()
    try:
        yield
    finally:
        server.start()
        assert server.wait(), server.output.read_text()


@contextlib.contextmanager
def stopped(server):
    """
    Have a server answer nothing, with its connections left open.
    """
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)


def _is_there(pid):
    """
    Say whether a process has not ended; nobody may have asked yet how it did.
    """
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


class PostgreSQL(Server):
    """
    A PostgreSQL, which says more slowly than others that it is there.
    """

    def kill(self):
        """
        Kill all its processes: those of connections might answer once more.
        """
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        super().kill()
        for child in map(int, children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while any(map(_is_there, children)):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def wait(self):
        """
        Wait until it answers; say whether it does.
        """
        import psycopg

        deadline = time.monotonic() + PATIENCE
        url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                # It does not start while processes of one that was killed are there.
                time.sleep(0.1)
                self.start()
            with contextlib.suppress(psycopg.Error):
                psycopg.connect(url, connect_timeout=10).close()
                return True
            time.sleep(0.02)
        return False


@contextlib.contextmanager
def postgresql_server():
    """
    Run a PostgreSQL with a cluster of its own; its `port` is on loopback.
    """
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=str)
    initdb = str(places[-1] / "initdb") if places else program("initdb")
    # It does not run as root, and root's folders are not open to others.
    as_user = []
    if os.getuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "data").mkdir(0o700)
        if as_user:
            shutil.chown(folder / "data", "postgres", "postgres")
        made = [*as_user, initdb, "-D", folder / "data", "-U", "tester", "--no-sync"]
        subprocess.run(
            [*made, "--auth=trust", "--encoding=UTF8", "--locale=C"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )
        (port,) = free_ports(1)
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": folder / "data",
            "port": port,
            "fsync": "off",  # the kernel outlives it here, whatever happens
            "log_timezone": "UTC",
            "timezone": "Europe/Berlin",
        }
        listed = [f"--{key}={value}" for key, value in options.items()]
        postgres = str(Path(initdb).with_name("postgres"))
        server = PostgreSQL(
            [*as_user, postgres, "-D", folder / "data", *listed], port, folder / "log"
        )
        server.start()
        try:
            assert server.wait(), server.output.read_text()
            yield server
        finally:
            # Its other processes end by themselves, and before the folder does.
            if server.process is not None:
                server.process.send_signal(signal.SIGQUIT)
                server.process.wait(PATIENCE)


@contextlib.contextmanager
def clickhouse_server(tmp_path):
    """
    Run ClickHouse's engine behind HTTP.
    """
    importable("chdb")
    (port,) = free_ports(1)
    program_of_ours = HERE / "clickhouse_server.py"
    folder = tmp_path / "clickhouse"
    server = Server(
        [sys.executable, program_of_ours, str(port), folder], port, tmp_path / "log"
    )
    folder.mkdir()
    server.start()
    try:
        assert server.wait(), server.output.read_text()
        yield server
    finally:
        server.kill()


KAFKA = """
import sys
from confluent_kafka import Producer
properties = {"bootstrap.servers": "-", "test.mock.num.brokers": 2, "log_level": 0}
keeper = Producer(properties)
brokers = keeper.list_topics(timeout=60).brokers.values()
print(",".join(f"{each.host}:{each.port}" for each in brokers), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def kafka_mock():
    """
    Run librdkafka's mock cluster in a process of its own; give it and its addresses.
    """
    importable("confluent_kafka")
    with subprocess.Popen(
        [sys.executable, "-c", KAFKA],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
