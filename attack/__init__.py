"""Inversion attacks on the artifacts' own outputs, with controls and a verdict."""
