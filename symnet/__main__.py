"""`python -m symnet`, the same as `symnet`."""

from symnet.cli import main

main()
