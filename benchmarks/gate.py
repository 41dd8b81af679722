"""What a bundle's gate turns away and what it keeps: pictures of no lesion against lesions.

python benchmarks/gate.py --model RUN --lesions FOLDER_OR_CSV [--others FOLDER ...]

Pictures of no lesion are those that the tests draw (pages, faces, noise, walls, tissue), the sample photographs of
installed packages (scikit-learn, matplotlib, scikit-image), and whatever lies in the given folders. Lesions are at most
500 pictures of a place, drawn by a seed: such as the networks were not trained on.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from melanoma.inference.inputs import find_pictures
from melanoma.inference.predict import Predictor
from melanoma.inference.words import ERROR, NOT_ASSESSABLE

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_gate import KINDS, ordinary_photographs

LESIONS, DRAWN = 500, 40


def told(predictor: Predictor, name: str, pictures: Iterable[Any]) -> tuple[int, int]:
    """Print and return how many pictures of a kind were turned away, of how many that could be read."""
    answers = [one for one in predictor.answer(list(pictures), maps=False) if one.status != ERROR]
    away = sum(one.status == NOT_ASSESSABLE for one in answers)
    print(f"{name:<40} {away:>5} of {len(answers):>5} turned away, {100 * away / len(answers):.1f} %")
    return away, len(answers)


def main() -> None:
    """Show both kinds to the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a bundle or a run")
    parser.add_argument("--lesions", required=True, help="lesions that its networks were not trained on")
    parser.add_argument("--others", nargs="*", default=[], help="folders of pictures of no lesion")
    given = parser.parse_args()
    predictor = Predictor(given.model)
    drawn = {
        kind.__name__: [np.asarray(kind(np.random.default_rng([seed, 1]))) for seed in range(DRAWN)] for kind in KINDS
    }
    found = [told(predictor, f"drawn: {name}", pictures) for name, pictures in drawn.items()]
    found.append(told(predictor, "sample photographs of packages", ordinary_photographs()))
    found += [told(predictor, place, (item.name for item in find_pictures([place]))) for place in given.others]
    away, every = np.sum(found, axis=0)
    print(f"{'all that is no lesion':<40} {away:>5} of {every:>5} turned away, {100 * away / every:.1f} %")
    items = find_pictures([given.lesions])
    chosen = np.random.default_rng(0).permutation(len(items))[:LESIONS]
    away, every = told(predictor, f"lesions of {given.lesions}", (items[place].name for place in chosen))
    print(f"{100 * (1 - away / every):.1f} % of the lesions are kept")


if __name__ == "__main__":
    main()
