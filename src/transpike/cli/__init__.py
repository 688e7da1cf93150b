"""The command line: parses and prints, no logic."""

from transpike.cli.main import main

__all__ = ["main"]
