"""
Syslog for receivers that know lines only: a protocol of one's own, made of another.
"""

import attrs

from protocols.syslog import syslog
from protoserve import Delimited

syslog_lines = attrs.evolve(syslog, framing=Delimited(b"\n"))
