"""What every stage reads and writes: record types, hashes, atomic files, named errors.

Imports neither torch nor onnxruntime: a Raspberry Pi and ``edgeveil --help`` need it.
"""
