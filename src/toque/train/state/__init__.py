"""What is saved of a run and how: complete or absent, hashed, in the background, over versions."""
