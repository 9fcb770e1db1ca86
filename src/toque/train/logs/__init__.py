"""What is told while training: rows of numbers, progress, where the time goes."""
