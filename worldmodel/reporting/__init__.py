"""What figures and pages are made of: intervals, resampling, videos."""
