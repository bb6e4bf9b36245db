"""
Both codecs, the generated one and the fall-back, answer the same questions.
"""

from __future__ import annotations

import pytest

from protoserve.codec.boundary import build_message, parse_message


class Generated:
    """What users call."""

    @staticmethod
    def parse(kind, data):
        return kind.parse(data)

    @staticmethod
    def build(message):
        return bytes(message)


class Guarded:
    """Construct's own objects, guarded."""

    @staticmethod
    def parse(kind, data):
        return parse_message(kind.construct, data, kind._caps)

    @staticmethod
    def build(message):
        return build_message(type(message).construct, message)


@pytest.fixture(params=[Generated, Guarded], ids=["generated", "guarded"])
def codec(request):
    return request.param
