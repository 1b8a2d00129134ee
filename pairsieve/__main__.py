"""``python -m pairsieve``: the command line."""

from pairsieve.pipelines.cli import main

main()
