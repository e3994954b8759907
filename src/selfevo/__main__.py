"""`python -m selfevo` is `selfevo`."""

from selfevo.cli import main

main()
