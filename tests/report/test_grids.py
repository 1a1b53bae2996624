"""Grids of episodes: which panels there are, what stands in them, and nothing beyond what the galleries hold."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from symnet.cases import Case, Gallery
from symnet.figure_plan import ROWS
from symnet.report.grids import OPACITY, PREDICTED, TRUTH, episode_grid, region_grid
from symnet.report.style import PAGE, TALL

COLUMNS = ("prototype", "symnet (meta)")


def case(number: int, failure: bool, name: str = "cat", with_priors: bool = True) -> Case:
    """A query of 20 x 30 whose left third is the object; the rows take the upper half, and nothing, for it."""
    rng = np.random.default_rng(number)
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :10], mask[18:, 20:] = 1, 255
    half = np.zeros((20, 30), np.uint8)
    half[:10] = 1
    pictures = {"query": rng.integers(0, 255, (20, 30, 3), np.uint8), "truth": mask}
    pictures |= {"support": rng.integers(0, 255, (30, 20, 3), np.uint8), "mask": mask.T.copy()}
    pictures |= {"of prototype": half, "of symnet (meta)": np.zeros((20, 30), np.uint8)}
    if with_priors:
        pictures |= {kind: rng.integers(0, 255, (20, 30), np.uint8) for kind in ("HPM", "SPM")}
        pictures["regions"] = rng.integers(0, 4, (20, 30), np.uint8)
    return Case(number, name, failure, {"prototype": (100 + number, 400), "symnet (meta)": (0, 0)}, pictures)


def gallery(fold: int, with_priors: bool = True) -> Gallery:
    cases = (case(0, False, "cat", with_priors), case(4, False, "tv monitor", with_priors), case(7, True, "dog", with_priors))
    taus = {"tau1": 0.7, "tau2": 0.4, "tau3": 0.45, "tau4": 0.6} if with_priors else {}
    return Gallery("pascal5i", fold, 1, 7, "padded", "symnet", COLUMNS, taus, cases)


def cases(galleries: Sequence[Gallery], failure: bool = False) -> list[Case]:
    return [case for gallery in galleries for case in gallery.cases if case.failure == failure]


def texts(figure: Figure) -> list[list[str]]:
    """The words in the panels of each row."""
    columns = figure.axes[0].get_subplotspec().get_gridspec().ncols
    words = [" ".join(text.get_text() for text in axes.texts) for axes in figure.axes]
    return [words[start : start + columns] for start in range(0, len(words), columns)]


def test_a_grid_has_a_row_an_episode_and_says_what_was_tested() -> None:
    figure = episode_grid(cases([gallery(0), gallery(1)]), COLUMNS)
    titles = ["support", "query", "HPM prior", "SPM prior", "prototype", "symnet\n(meta)", "truth"]
    assert [axes.get_title() for axes in figure.axes] == titles + [""] * 7 * 3
    assert [text.get_text() for text in figure.texts] == ["cat", "tv monitor"] * 2
    assert texts(figure) == [["", "", "", "", iou, "--", ""] for iou in ("25.0", "26.0")] * 2
    assert [text.get_text() for text in episode_grid(cases([gallery(0)], failure=True), COLUMNS).texts] == ["dog"]


def test_a_panel_shows_its_picture_and_its_mask() -> None:
    one = case(0, False)
    figure = episode_grid([one], COLUMNS)
    support, query, hpm, spm, prototype, symnet, truth = figure.axes
    shown = [axes.images[0].get_array() for axes in (support, query, hpm, spm, truth)]
    for found, name in zip(shown, ("support", "query", "HPM", "SPM", "query"), strict=True):
        assert np.array_equal(found, one.pictures[name])
    assert (hpm.images[0].norm.vmin, hpm.images[0].norm.vmax) == (0, 255)
    painted = np.asarray(prototype.images[1].get_array())
    assert (painted[:10] == (*to_rgb(PREDICTED), OPACITY)).all()
    assert not painted[10:].any()
    assert len(prototype.collections) == 1  # its border
    assert not np.asarray(symnet.images[1].get_array()).any()
    assert len(symnet.collections) == 0
    unknown = np.asarray(truth.images[1].get_array())[19, 25]
    assert unknown.tolist() == [*to_rgb("grey"), OPACITY]
    assert np.asarray(truth.images[1].get_array())[5, 5].tolist() == [*to_rgb(TRUTH), OPACITY]


def test_without_priors_there_are_no_columns_of_them() -> None:
    titles = [axes.get_title() for axes in episode_grid(cases([gallery(0, with_priors=False)], failure=True), COLUMNS).axes]
    assert titles == ["support", "query", "prototype", "symnet\n(meta)", "truth"]


def test_regions_and_the_thresholds_that_cut_them() -> None:
    figure = region_grid(cases([gallery(0), gallery(1)]), gallery(0).taus)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["query", "SPM prior", "regions", "truth"]
    assert len(figure.axes) == 4 * 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["foreground: above 0.7", "hard: 0.45 to 0.6", "background: below 0.4"]
    regions = case(0, False).pictures["regions"]
    painted = np.asarray(figure.axes[2].images[1].get_array())
    for value, patch in enumerate(legend.get_patches(), 1):
        assert painted[regions == value] == pytest.approx(np.tile(patch.get_facecolor(), ((regions == value).sum(), 1)))
    assert not painted[regions == 0].any()


def test_panels_keep_the_pictures_shape_and_titles_stand_in_a_line() -> None:
    figure = episode_grid(cases([gallery(0)]), COLUMNS)
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        box, picture = axes.get_window_extent(), axes.images[0].get_array()
        assert box.height / box.width == pytest.approx(picture.shape[0] / picture.shape[1], rel=0.02)
    assert len({round(axes.get_window_extent().y1) for axes in figure.axes[:7]}) == 1


@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[:1]])
def test_a_page_full_of_portraits_is_no_taller_than_a_page(columns: tuple[str, ...]) -> None:
    def turned(one: Case) -> Case:
        return replace(one, pictures={name: picture.swapaxes(0, 1).copy() for name, picture in one.pictures.items()})

    full = [turned(case(i, False)) for i in range(ROWS)]
    for figure in (episode_grid(full, columns), region_grid(full, gallery(0).taus)):
        FigureCanvasAgg(figure).draw()
        width, height = figure.get_size_inches()
        assert height == pytest.approx(TALL)
        assert 0 < width < PAGE
        for axes in figure.axes:
            box, picture = axes.get_window_extent(), axes.images[0].get_array()
            assert box.height / box.width == pytest.approx(picture.shape[0] / picture.shape[1], rel=0.02)
            assert box.width > 0.5 * figure.dpi  # half an inch
        for text in (*figure.texts, *(word for legend in figure.legends for word in legend.get_texts())):
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= width * figure.dpi


def test_names_of_classes_are_beside_their_own_rows_alone() -> None:
    """A low row of many columns is not as high as a long word is long."""
    many = [f"row {number}" for number in range(10)]
    low = [case(0, False, "dining table"), case(1, False, "motorbike")]
    low = [replace(one, pictures={**one.pictures, **{f"of {name}": one.pictures["of prototype"] for name in many}}) for one in low]
    low = [replace(one, scores=dict.fromkeys(many, (1, 2))) for one in low]
    figure = episode_grid(low, many)
    FigureCanvasAgg(figure).draw()
    for text, row in zip(figure.texts, (figure.axes[0], figure.axes[-1]), strict=True):
        word, place = text.get_window_extent(), row.get_subplotspec().get_position(figure)
        assert place.y0 * figure.bbox.height <= word.y0 < word.y1 <= place.y1 * figure.bbox.height
    assert [text.get_fontsize() for text in episode_grid(cases([gallery(0)])[:1], COLUMNS).texts] == [7]


def test_a_page_without_an_episode_says_so() -> None:
    assert [text.get_text() for text in episode_grid([], COLUMNS).texts] == ["no class of this page has an episode"]
