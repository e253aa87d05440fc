"""SMTP as two state machines, bytes in and events out, without I/O (RFC 5321)."""
