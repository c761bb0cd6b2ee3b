"""What a kit runs on a device: standard library, numpy and a runtime only, no msgspec, no torch."""
