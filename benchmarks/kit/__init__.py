"""Kits: one archive with a bundle and a program for a device, and what comes back from there."""
