"""SOCKS5 (RFC 1928, RFC 1929) as Postfleet speaks it: both halves, and the token that is the password. Pure."""
