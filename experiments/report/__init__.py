"""The report of a run: one self-contained page, and its pictures as files."""

from __future__ import annotations

from experiments.report.block_picture import write_block_picture
from experiments.report.front_picture import write_front_picture
from experiments.report.page import render_report, write_report
from experiments.report.pictures import write_training_picture
from experiments.report.tables import write_tables

__all__ = [
    "render_report",
    "write_block_picture",
    "write_front_picture",
    "write_report",
    "write_tables",
    "write_training_picture",
]
