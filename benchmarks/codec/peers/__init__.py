"""
Others' ways to parse and build the same bytes, one file each, each optional.

A peer's module has `candidates`, which gives its candidates by the key of their case.
"""

from __future__ import annotations

import importlib
import importlib.metadata

import attrs

from benchmarks.codec.case import Candidate

PACKAGES = {
    "construct_typing": "construct-typing",
    "construct_classes": "construct-classes",
    "caterpillar": "caterpillar-py",
    "dissect_cstruct": "dissect.cstruct",
    "kaitai": "kaitaistruct",
    "dpkt_packets": "dpkt",
    "scapy_packets": "scapy",
    "msgspec_msgpack": "msgspec",
    "protobuf_upb": "protobuf",
}
"""What each module needs, as pip knows it."""


@attrs.frozen
class Peers:
    """
    The peers that are there, and those that are not.
    """

    candidates: dict[str, list[Candidate]]
    """By the key of their case."""
    versions: dict[str, str]
    missing: list[str]
    """A line for each that is not there, which says what to do."""


def load() -> Peers:
    """
    Import the peers.
    """
    peers = Peers({}, {}, [])
    for name, package in PACKAGES.items():
        try:
            module = importlib.import_module(f"{__name__}.{name}")
        except ImportError as exc:
            peers.missing.append(f"{package} left out ({exc}): pip install {package}")
            continue
        peers.versions[package] = importlib.metadata.version(package)
        for key, candidates in module.candidates().items():
            peers.candidates.setdefault(key, []).extend(candidates)
    return peers
