"""The analyses beside the leaderboard, one a file, from the records alone.

Each writes leaderboard/analyses/<name>.csv and figures below leaderboard/plots, or nothing if the records do not have
what it needs.
"""

from cab.report.analyses import context, copies, correlation, gain, noise, options, recall, state, time
from cab.report.analyses.base import Answer, Material, Question

QUESTIONS: tuple[Question, ...] = (
    gain.QUESTION,
    noise.QUESTION,
    correlation.QUESTION,
    context.QUESTION,
    copies.QUESTION,
    state.QUESTION,
    recall.QUESTION,
    options.QUESTION,
    time.QUESTION,
)


def answers(material: Material) -> list[Answer]:
    return [Answer(question, question.lines(material)) for question in QUESTIONS]
