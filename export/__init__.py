"""From a trained edge to a bundle: FX quantization, one file a format, a verified manifest."""
