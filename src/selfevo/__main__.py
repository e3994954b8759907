"""`python -m selfevo` is `selfevo`."""

from selfevo.cli.app import main

main()
