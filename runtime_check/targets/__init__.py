"""Where artifacts run other than in this process: emulated ARM CPUs, one protocol for all."""
