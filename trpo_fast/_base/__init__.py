"""What every other folder uses: options, checks, files, seeds, threads, the native half."""
