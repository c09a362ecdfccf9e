"""Units of work: what is planned in the driver and run on a worker."""
