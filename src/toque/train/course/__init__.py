"""What decides how a run goes on: early stopping, and steps without a number."""
