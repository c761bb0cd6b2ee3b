"""Size and latency of artifacts on this machine."""
