"""Build image-text datasets: a recipe names a pool, its filters and the output."""
