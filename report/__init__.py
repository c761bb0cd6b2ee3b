"""Markdown and HTML from the JSON records alone."""
