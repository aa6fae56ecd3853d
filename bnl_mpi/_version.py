"""The version, alone in a module so that nothing heavy is imported to know it."""

__version__ = "0.3.0"
VERSION_DATE = "2026-11-26"
