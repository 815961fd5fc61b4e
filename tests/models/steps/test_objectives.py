import torch

from models.steps.objectives import content_loss, gram_matrix, style_loss


def features(channels=5, height=4, width=6, seed=0):
    return torch.randn(1, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_gram_matrix_is_the_mean_product_of_channels_over_positions():
    found = features()
    for one in range(5):
        for other in range(5):
            expected = sum(found[0, one, y, x] * found[0, other, y, x] for y in range(4) for x in range(6)) / 24
            torch.testing.assert_close(gram_matrix(found)[one, other], expected, rtol=1e-13, atol=1e-13)


def test_style_loss_is_equation_4_of_the_paper():
    image, style = features(seed=1)[0].flatten(1), features(seed=2)[0].flatten(1)
    channels, positions = image.shape
    paper = ((image @ image.T - style @ style.T) ** 2).sum() / (4 * channels**2 * positions**2)
    ours = style_loss(gram_matrix(features(seed=1)), gram_matrix(features(seed=2)))
    torch.testing.assert_close(ours, paper, rtol=1e-13, atol=0)


def test_content_loss_is_half_the_mean_squared_difference():
    found, target = features(seed=1), features(seed=2)
    torch.testing.assert_close(content_loss(found, target), ((found - target) ** 2).sum() / 2 / found.numel())


def test_gradients_of_both_losses_equal_finite_differences():
    target = features(seed=2)
    given = features(seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda found: content_loss(found, target), given)
    assert torch.autograd.gradcheck(lambda found: style_loss(gram_matrix(found), gram_matrix(target)), given)
