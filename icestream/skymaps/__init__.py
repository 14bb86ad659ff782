"""What becomes of a sky map: its best direction and regions, files that others read, and plots."""
