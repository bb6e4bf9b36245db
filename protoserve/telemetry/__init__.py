"""
Telemetry: datagrams in, tables of rows out, and an account of every one of them.
"""
