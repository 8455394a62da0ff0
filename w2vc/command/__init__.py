"""The command line: the only place that prints and that knows exit codes."""
