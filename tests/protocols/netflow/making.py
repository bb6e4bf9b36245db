"""
Templates and data of all kinds, made by chance; the same seed makes the same ones.
"""

from protocols.netflow import IPFIX, V9, VARIABLE, Field, Template
from protocols.netflow.elements import known_elements
from protocols.netflow.values import lengths_of
from tests.protocols.netflow.blocks import ipfix, v9

BY_KIND = {}
for (pen, number), found in known_elements().items():
    if not pen and number < 32_768 and number != 210:
        BY_KIND.setdefault(found.kind, []).append(number)


def field(chance, version):
    kind = chance.choice(sorted(BY_KIND))
    number = chance.choice(BY_KIND[kind][:12])
    length = chance.choice([*(lengths_of(kind) or (1, 2, 7, 20)), 3, 9])
    if version == V9:
        return Field(chance.choice([number] * 6 + [40_001, 57_000]), length)
    if chance.random() < 0.25:
        length = VARIABLE
    enterprise = chance.choice([0, 0, 0, 0, 0, 29_305, 4242])
    return Field(chance.choice([number] * 9 + [210]), length, enterprise)


def template(chance, version, number):
    fields = [field(chance, version) for _ in range(chance.randint(1, 8))]
    scopes = chance.choice([None, None, 1])
    if scopes and len(fields) > 1 and chance.random() < 0.2:
        fields[0] = Field(1, 0)
    return Template.of(number, fields, version=version, scopes=scopes)


def some_bytes(chance, length):
    if chance.random() < 0.3:
        return bytes([chance.choice([0, 0x7F, 0x80, 0xFF])]) * length
    return chance.randbytes(length)


def data(chance, template):
    """Records of any bytes, and some padding."""
    parts = []
    for _ in range(chance.randint(0, 4)):
        for each in template.fields:
            length = each.length
            if length == VARIABLE and template.version == IPFIX:
                length = chance.choice([0, 1, 2, 4, 6, 8, 16, 254, 255, 300])
                long = b"\xff" + length.to_bytes(2)
                parts.append(long if length > 254 else bytes([length]))
            parts.append(some_bytes(chance, length))
    padding = chance.randint(0, 3)
    if padding < template.layout.least:
        parts.append(bytes(padding))
    return b"".join(parts)


def conversation(chance):
    """Datagrams of one exporter, with data only of templates that have come."""
    version = chance.choice([V9, IPFIX])
    make, first = (v9, 0) if version == V9 else (ipfix, 2)
    known, made = {}, []
    for _ in range(chance.randint(1, 6)):
        domain = chance.randint(0, 1)
        sets = []
        for _ in range(chance.randint(1, 5)):
            number = chance.randint(256, 258)
            if (domain, number) not in known or chance.random() < 0.2:
                each = known[domain, number] = template(chance, version, number)
                set_id = first + (each.scopes is not None)
                sets.append((set_id, each.definition() + bytes(chance.randint(0, 3))))
            else:
                sets.append((number, data(chance, known[domain, number])))
        made.append(make(*sets, domain=domain))
    return made
