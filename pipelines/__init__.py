"""From recipe to run: plan, passes, engines, outputs and the command line."""
