"""
Real brokers on loopback: several nats-servers as one cluster, a redis-server.

They listen at ports that the kernel gives to nobody, keep their files in a folder of the test's
and are ended by their process ids. A port that somebody else takes in between costs
another start with other ports.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import attrs

from tests.interop.conftest import free_port, missing

PATIENCE = 60.0
"""Seconds until a broker answers, or a cluster has a leader; a slow machine's."""

NODE = """
server_name: {name}
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{http}"
jetstream {{ store_dir: "{folder}", max_mem: 64MB, max_file: 8GB, sync_interval: always }}
{limits}
"""
CLUSTER = """
cluster {{ name: trial, listen: "127.0.0.1:{route}", routes: [{routes}] }}
"""


def program(name):
    """
    Find a program, beside Python's own too; skip the test where there is none.
    """
    places = [str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]
    path = shutil.which(name, path=os.pathsep.join(places))
    if path is None:
        missing(f"the program {name}")
    return path


def free_ports(count):
    """
    Find ports that are free.
    """
    ports = set()
    while len(ports) < count:
        ports.add(free_port())
    return [*ports]


@attrs.define
class Server:
    """
    A broker as a process.
    """

    command: list
    port: int
    output: Path
    process: subprocess.Popen | None = None

    def start(self):
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def kill(self):
        """
        End it by SIGKILL.
        """
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def wait(self):
        """
        Wait until it listens; say whether it does.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return True
            time.sleep(0.02)
        return False


@attrs.define
class NatsCluster:
    """
    Some nats-servers that keep streams together.
    """

    servers: list[Server]
    http: list[int]

    @property
    def url(self):
        """
        What `open_log` takes.
        """
        return "nats://" + ",".join(f"127.0.0.1:{each.port}" for each in self.servers)

    def wait(self):
        """
        Wait until all that run are in order, and agree on a leader.
        """
        for server, port in zip(self.servers, self.http, strict=True):
            if server.process is None:
                continue
            deadline = time.monotonic() + PATIENCE
            while not self._healthy(port):
                assert server.process.poll() is None, server.output.read_text()
                assert time.monotonic() < deadline, server.output.read_text()
                time.sleep(0.05)

    def leader(self, stream):
        """
        Give the number of the server that leads a stream.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for port, server in zip(self.http, self.servers, strict=True):
                if server.process is None:
                    continue
                with contextlib.suppress(OSError):
                    known = self._ask(port, "jsz?streams=true")
                    for account in known.get("account_details", ()):
                        for each in account.get("stream_detail", ()):
                            name = each.get("cluster", {}).get("leader")
                            if each["name"] == stream and name:
                                return int(name[1:])
            time.sleep(0.05)
        raise AssertionError(f"{stream} has no leader")

    def kill(self, number):
        """
        End a server by SIGKILL.
        """
        self.servers[number].kill()

    def restart(self, number):
        """
        Start a server again, with its port and its files.
        """
        self.servers[number].kill()
        self.servers[number].start()
        assert self.servers[number].wait(), self.servers[number].output.read_text()

    def _healthy(self, port):
        # It needs a leader of the whole, which `healthz` does not ask for.
        try:
            self._ask(port, "healthz")
            about = self._ask(port, "jsz").get("meta_cluster")
        except OSError:
            return False
        return len(self.servers) == 1 or bool(about and about.get("leader"))

    def _ask(self, port, what):
        url = f"http://127.0.0.1:{port}/{what}"
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            return json.load(answer)


@contextlib.contextmanager
def nats_cluster(nodes, tmp_path, *, limits=""):
    """
    Run a cluster of nats-servers while the block runs.

    Args:
        nodes: how many; 1 is a server alone.
        tmp_path: where they keep their files.
        limits: more lines of configuration.
    """
    binary = program("nats-server")
    for turn in range(5):
        folder = tmp_path / f"nats{turn}"
        folder.mkdir(parents=True)
        ports = free_ports(3 * nodes)
        routes = ports[2 * nodes :]
        listed = ",".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        servers = []
        for number in range(nodes):
            text = NODE.format(
                name=f"n{number}",
                port=ports[number],
                http=ports[nodes + number],
                folder=folder / f"n{number}",
                limits=limits,
            )
            if nodes > 1:
                text += CLUSTER.format(route=routes[number], routes=listed)
            conf = folder / f"n{number}.conf"
            conf.write_text(text)
            log = folder / f"n{number}.log"
            servers.append(Server([binary, "-c", conf], ports[number], log))
        cluster = NatsCluster(servers, ports[nodes : 2 * nodes])
        try:
            for server in servers:
                server.start()
            if not all(server.wait() for server in servers):
                continue
            cluster.wait()
            yield cluster
            return
        finally:
            for server in servers:
                server.kill()
    raise AssertionError(servers[0].output.read_text())


@contextlib.contextmanager
def redis_server(tmp_path, *options):
    """
    Run a redis-server, which writes each change to its disk, while the block runs.
    """
    binary = program("redis-server")
    for turn in range(5):
        folder = tmp_path / f"redis{turn}"
        folder.mkdir(parents=True)
        (port,) = free_ports(1)
        told = [
            *("--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *options,
        ]
        server = Server([binary, *told], port, folder / "log")
        try:
            server.start()
            if not server.wait():
                continue
            yield server
            return
        finally:
            server.kill()
    raise AssertionError(server.output.read_text())
