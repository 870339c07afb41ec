"""What figures and pages are made of: intervals, resampling, tables, plots, pages, results as JSON, videos."""
