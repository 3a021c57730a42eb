"""LeCam regularisation, for few images: Tseng et al. 2021, https://arxiv.org/abs/2104.03310, eq. 6.

D's scores of real images are drawn towards the average of its scores of fake ones, and the other
way round. As in the authors' code only scores that lie beyond the average are: a D that is sure of
everything pays, one that is not does not.
"""

import torch
from torch import Tensor
from torch.nn.functional import relu

DECAY = 0.99  # of the averages, an update of D


def regularizer(scores: Tensor, averages: Tensor) -> Tensor:
    """(): E[relu(D(x) - a_F)^2] + E[relu(a_R - D(G(z)))^2]; averages: (a_R, a_F).

    scores: (2 B,), of real and then of fake images.
    """
    real_scores, fake_scores = scores.chunk(2)
    real_average, fake_average = averages.unbind()
    beyond = relu(real_scores - fake_average), relu(real_average - fake_scores)
    return beyond[0].square().mean() + beyond[1].square().mean()


@torch.no_grad()
def follow(averages: Tensor, real_scores: Tensor, fake_scores: Tensor) -> None:
    """Move the averages (2,) towards the means of this update's scores, if these are finite.

    They start at 0, as D's scores do.
    """
    means = torch.stack([real_scores.mean(), fake_scores.mean()])
    averages.copy_(torch.where(means.isfinite(), averages.lerp(means, 1 - DECAY), averages))
