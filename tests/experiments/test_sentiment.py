"""How sentiments are shown."""

import math

from experiments.sentiment import main
from research.text2text import Answer


def test_a_score_is_shown_as_a_probability():
    answers = [Answer("positive", math.log(0.75)), Answer("negative", math.log(0.2))]
    assert main.show(answers[:1]) == "positive 75.0%"
    assert main.show(answers) == "positive 75.0%, negative 20.0%"
