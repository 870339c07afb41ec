"""What every floor uses: files, errors, progress, random numbers, long runs. Nothing of it is about world models."""
