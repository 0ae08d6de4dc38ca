"""The jobs of the command line: each resolves, opens its run, works, derives, reports."""
