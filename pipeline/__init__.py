"""The stages of a recipe in order: skipped when unchanged, resumed when cut."""
