"""What data, recipes and runs look like; imports nothing else of pairsieve."""
