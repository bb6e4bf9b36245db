"""
Protocols that come with protoserve, each declared with its public face only.

Every package holds one protocol and exposes it under its own name:
`protocols.dns.dns`, `protocols.modbus.modbus`, `protocols.ntp.ntp`.
"""
