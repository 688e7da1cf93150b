"""``python -m transpike.cli``."""

from transpike.cli import main

main()
