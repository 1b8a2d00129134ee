"""One filter to a file; the file name is the filter name in a recipe."""
