import torch

from models.steps.objectives import content_loss, gram_matrix, style_loss


def features(channels=5, height=4, width=6, seed=0):
    return torch.randn(1, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_gram_matrix_is_the_mean_product_of_channels_over_positions():
    given = features()
    for one in range(5):
        for other in range(5):
            expected = sum(given[0, one, y, x] * given[0, other, y, x] for y in range(4) for x in range(6)) / 24
            torch.testing.assert_close(gram_matrix(given)[one, other], expected, rtol=1e-13, atol=1e-13)


def test_style_loss_is_equation_4_of_the_paper():
    image, style = features(seed=1)[0].flatten(1), features(seed=2)[0].flatten(1)
    channels, positions = image.shape
    paper = ((image @ image.T - style @ style.T) ** 2).sum() / (4 * channels**2 * positions**2)
    ours = style_loss(gram_matrix(features(seed=1)), gram_matrix(features(seed=2)))
    torch.testing.assert_close(ours, paper, rtol=1e-13, atol=0)


def test_content_loss_is_half_the_mean_squared_difference():
    given, target = features(seed=1), features(seed=2)
    torch.testing.assert_close(content_loss(given, target), ((given - target) ** 2).sum() / 2 / given.numel())


def test_gradients_of_both_losses_equal_finite_differences():
    target = features(seed=2)
    image = features(seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda given: content_loss(given, target), image)
    assert torch.autograd.gradcheck(lambda given: style_loss(gram_matrix(given), gram_matrix(target)), image)
