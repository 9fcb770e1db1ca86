"""The one pass over the pixels: `reference` defines it, the others do the same faster."""
