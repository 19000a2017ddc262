"""Rendering: `batches` computes frames from tensors, `subjects` makes ready who is rendered, `job` goes from files to files."""

from .job import RenderResult, render

__all__ = ["RenderResult", "render"]
