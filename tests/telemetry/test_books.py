"""
What a run leaves behind, so that the next one knows what was lost with it.
"""

import json
import os
from pathlib import Path

import pytest

from protoserve.account import Account
from protoserve.telemetry.books import Books, lost_before

SETTLED = ("settled_delivered", "settled_sink")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.account"


def test_lost(path):
    """Received, and neither spooled nor delivered nor dropped: that was in memory."""
    account = Account(SETTLED)
    account.receive(5)
    Books(path, account, 1000)
    assert 5 == lost_before(path, 1000)
    account.receive(95)
    account.drop("malformed", 3)
    account.lose("kernel", 50)
    account.deliver(7)  # there was nothing in them to be stored
    assert 90 == lost_before(path, 1000)
    assert 20 == lost_before(path, 1070)
    account.add("settled_delivered", 60, "delivered")
    account.add("settled_sink", 10, "sink")
    assert 20 == lost_before(path, 1070)
    assert 0 == lost_before(path, 1090)


def test_several_processes(path):
    """Each counts in a place of its own; what was buried as killed is lost once."""
    account = Account(SETTLED)
    Books(path, account, 0)
    for worker, count in enumerate((10, 20)):
        child = os.fork()
        if not child:
            account.join(worker)
            account.receive(count)
            os._exit(0)
        os.waitpid(child, 0)
    assert 30 == lost_before(path, 0)
    assert 30 == account.settle()
    assert 0 == lost_before(path, 0)


def test_the_next_run(path):
    """It begins with its own counts."""
    before = Account(SETTLED)
    books = Books(path, before, 0)
    before.receive(5)
    books.close()
    before.receive(5)
    assert 5 == lost_before(path, 0)
    Books(path, Account(SETTLED), 0)
    assert 0 == lost_before(path, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        b"[]".ljust(4096),
        json.dumps({"names": [], "spooled": 0}).encode().ljust(4096) + b"\1" * 8,
        json.dumps({"names": ["received"], "spooled": 0}).encode().ljust(4096),
        json.dumps({"names": ["received"]}).encode().ljust(4096) + b"\1" * 9,
    ],
)
def test_nonsense(path, data):
    """A file that says nothing is as none."""
    assert 0 == lost_before(path, 0)
    path.write_bytes(data)
    assert 0 == lost_before(path, 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk")
def test_full_disk(tmp_path):
    """Where nothing can be written, nothing is kept, and counting goes on."""
    account = Account(SETTLED)
    (tmp_path / "full").symlink_to("/dev/full")
    Books(tmp_path / "full", account, 0)
    Books(tmp_path / "no" / "folder", account, 0)
    account.receive()
    assert 1 == account.balance().received
