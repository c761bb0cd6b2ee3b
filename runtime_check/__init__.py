"""The artifacts in their real runtimes, held against eager INT8."""
