"""Postfleet: a cloud-native mail transfer platform."""

__version__ = "0.1.0"
