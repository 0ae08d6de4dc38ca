"""The one error a caller of the report meets."""

from __future__ import annotations


class ReportError(Exception):
    """No report can be drawn; the message is one line that says why and what to do."""
