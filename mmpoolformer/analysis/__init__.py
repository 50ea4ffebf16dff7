"""Looking at models and runs: curves and pictures."""
