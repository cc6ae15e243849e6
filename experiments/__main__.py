"""``python -m experiments`` is the command ``supernet``; for launchers such as torchrun."""

from experiments.cli import main

main()
