"""The tables of the leaderboard: from records to rows, ranks, indices and costs (cab.leaderboard)."""
