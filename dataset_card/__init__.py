"""The dataset card: its template and the texts of licences."""
