"""Programs that make files of this repository: models of the demo, pictures, pages of the documentation."""
