"""Reports and alerts at Magnetis: change detection, and the baseline that people review."""
