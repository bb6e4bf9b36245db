"""
A report as JUnit's XML, which CI systems show: one test case for a class of cases.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from protoserve.testing.torturing.findings import Report
from protoserve.testing.torturing.making import KINDS

__all__ = ["as_junit"]


def as_junit(report: Report) -> str:
    """
    Write a report as XML.

    Classes that the protocol has no cases of are skipped; what is the fault of no class
    of its own, as growing memory, stands in a test case called ``server``.
    """
    suite = ET.Element("testsuite", name=f"torture {report.protocol}")
    failures = skipped = 0
    for kind in (*KINDS, "server"):
        case = ET.SubElement(
            suite, "testcase", classname=f"torture.{report.protocol}", name=kind
        )
        found = [f for f in report.findings if (f.kind or "server") == kind]
        for finding in found:
            text = _legal(f"{finding.text}\n{finding.what}")
            failure = ET.SubElement(
                case, "failure", type=finding.category, message=_legal(finding.title)
            )
            sent = "\n".join(finding.as_json()["sent"])
            failure.text = f"{text}\nsent:\n{sent}"
        failures += bool(found)
        if not found and kind != "server" and not report.by_kind.get(kind):
            ET.SubElement(case, "skipped", message="there are no such cases")
            skipped += 1
    suite.set("tests", str(len(KINDS) + 1))
    suite.set("failures", str(failures))
    suite.set("errors", "0")
    suite.set("skipped", str(skipped))
    suite.set("time", f"{report.seconds:.3f}")
    suites = ET.Element("testsuites")
    suites.append(suite)
    ET.indent(suites)
    return ET.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _legal(text: str) -> str:
    """
    Replace what XML cannot hold.
    """
    return re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd]", "\N{REPLACEMENT CHARACTER}", text)
