"""From a dataset, run, evaluation or verdicts to a page."""
