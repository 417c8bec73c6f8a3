"""The command line ``trpo-fast``: train, resume, eval, plot, bench and doctor."""
