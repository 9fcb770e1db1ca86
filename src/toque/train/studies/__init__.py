"""What is asked of a run besides training: profile, replay, range test, plan, comparison."""
