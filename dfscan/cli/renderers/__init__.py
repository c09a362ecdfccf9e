"""Results of commands as tables on stdout, loaded only when there is a result to show."""
