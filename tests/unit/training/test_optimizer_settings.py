"""The optimizer's settings reach AdamW: two steps worked out from its definition."""

import torch

from tests.rollout_models import tiny_model
from tests.unit.training.helpers import applied_gradients, example_batch, make_learner


def test_decay_and_betas_are_those_of_the_recipe_for_every_weight_norms_too():
    rate, decay, beta1, beta2 = 1e-2, 0.5, 0.6, 0.8
    model = tiny_model()
    learner = make_learner(model, weight_decay=decay, adam_beta1=beta1, adam_beta2=beta2)
    expected = [parameter.detach().double().clone() for parameter in model.parameters()]
    first = [torch.zeros_like(one) for one in expected]
    second = [torch.zeros_like(one) for one in expected]
    with applied_gradients() as found:
        for step in (1, 2):
            learner.update(example_batch(model, step=step))
    assert len(found) == 2
    for step, gradients in enumerate(found, start=1):
        for i, gradient in enumerate(gradients):
            first[i] = beta1 * first[i] + (1 - beta1) * gradient
            second[i] = beta2 * second[i] + (1 - beta2) * gradient.double() ** 2
            scale = (second[i] / (1 - beta2**step)).sqrt() + 1e-8
            expected[i] *= 1 - rate * decay
            expected[i] -= rate * first[i] / (1 - beta1**step) / scale
    for parameter, right in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), right, rtol=1e-5, atol=1e-6)
    norms = [name for name, _ in model.named_parameters() if "norm" in name]
    assert norms
