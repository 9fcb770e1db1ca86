"""From a batch to changed weights: precision, gradients, memory, what a bad step undoes."""
