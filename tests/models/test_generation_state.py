import pytest

from models.generation_state import Scale, coarse_to_fine, seconds_left


def sizes(scales):
    return [(scale.width, scale.height, scale.iterations) for scale in scales]


def test_sizes_double_up_to_the_requested_one_and_share_the_iterations():
    assert sizes(coarse_to_fine(1024, 600, 301)) == [(256, 150, 101), (512, 300, 100), (1024, 600, 100)]
    assert sum(iterations for *_, iterations in sizes(coarse_to_fine(7680, 4320, 300))) == 300


@pytest.mark.parametrize(("width", "height"), [(64, 64), (255, 999), (257, 131), (40, 9000)])
def test_the_last_size_is_the_requested_one_and_none_is_smaller_than_the_network_accepts(width, height):
    scales = coarse_to_fine(width, height, 300, smallest_side_px=39)
    assert (scales[-1].width, scales[-1].height) == (width, height)
    assert min(min(scale.width, scale.height) for scale in scales) >= min(width, height, 96)


def test_the_first_size_is_one_that_the_network_accepts():
    assert [scale.width for scale in coarse_to_fine(1024, 1024, 300, smallest_side_px=400)] == [512, 1024]


def test_every_size_has_an_iteration():
    assert sizes(coarse_to_fine(1024, 1024, 2)) == [(512, 512, 1), (1024, 1024, 1)]


def test_the_time_left_is_proportional_to_pixels_at_the_speed_of_the_latest_size():
    scales = [
        Scale(10, 10, 2, durations_seconds=[9.0, 9.0]),
        Scale(20, 20, 3, durations_seconds=[4.0]),
        Scale(40, 40, 3),
    ]
    assert seconds_left(scales) == pytest.approx(2 * 4.0 + 3 * 16.0)
    assert seconds_left([Scale(10, 10, 2)]) is None
