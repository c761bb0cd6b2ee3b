"""Where the trained network comes from: images, models, splits, training."""
