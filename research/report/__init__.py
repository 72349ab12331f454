"""From run directories to results rows, README tables and plots."""
