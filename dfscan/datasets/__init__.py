"""The face dataset: its folder, splits and audit."""
