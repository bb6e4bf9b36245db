"""
Construct formats made safe to use on bytes from a network.
"""
