"""index.html, the leaderboard as one page (cab.leaderboard)."""
