"""The command line: its commands and flags (forms), how they are read (parsing, stored), what they do (actions)."""

from posattn.cli.entry import main, parse

__all__ = ["main", "parse"]
