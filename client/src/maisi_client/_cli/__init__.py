"""The command `maisi`: a module a command, with its options and what it does."""

from .entry import main as main
