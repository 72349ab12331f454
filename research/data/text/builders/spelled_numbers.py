"""Numbers from 0 to 9,999 in English words and in digits: synthetic texts, without a download."""

import random
from pathlib import Path

from research.data.text.builders.texts import TEXT, TextBuilder

SIZES = {"train": 8000, "validation": 1000, "test": 1000}
SPLIT_SEED = 0
SMALL = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class SpelledNumbers(TextBuilder, skip_registration=True):
    """Splits of 8,000 / 1,000 / 1,000; the fields are `words`, `digits` and `parity`, which is "even" or "odd"."""

    fields = dict.fromkeys(("words", "digits", "parity"), TEXT)

    def examples(self, folder: Path):
        """See TextBuilder; `folder` is not used."""
        numbers = list(range(sum(SIZES.values())))
        random.Random(SPLIT_SEED).shuffle(numbers)
        examples = ({"words": spell(n), "digits": str(n), "parity": ("even", "odd")[n % 2]} for n in numbers)
        return {split: [next(examples) for _ in range(size)] for split, size in SIZES.items()}


def spell(number: int) -> str:
    """`number`, from 0 to 9,999, in words: "two thousand and forty-one"."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f"-{SMALL[ones]}" if ones else "")
    unit, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    many, rest = divmod(number, unit)
    link = " and " if 0 < rest < 100 else " "
    return f"{spell(many)} {name}" + (f"{link}{spell(rest)}" if rest else "")
