"""What people look at: tables, the HTML page with its chart, model cards, progress."""
