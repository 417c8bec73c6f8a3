"""What every other folder uses: arguments and their sentences, the extension module, threads."""
