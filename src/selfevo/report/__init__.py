"""Output for people: tables, the HTML report with its chart, model cards, progress."""
