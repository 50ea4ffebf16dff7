"""Looking at models, data and tests: counts, times, class activation maps, reports."""
