"""The Triton backend `maisi`: one request's way from a label mask to a volume."""

VERSION = "0.1.0"
