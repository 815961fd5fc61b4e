"""The sections of the report, one a file, and the page that holds them. No torch and no pytest."""
