"""What decides how a run goes on: signals, early stopping, and steps without a number."""
