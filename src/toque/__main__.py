"""python -m toque: the command line."""

from toque.cli import main

main()
