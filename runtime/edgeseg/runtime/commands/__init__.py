"""The subcommands of `edgeseg` that the runtime itself can serve, one module each."""
