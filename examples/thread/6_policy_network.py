"""A policy network with two shortcuts, trained by REINFORCE.

The question: my policy for reinforcement learning is a small network that ends in softmax, and it should have two
skips: one around a hidden layer, and one that shows the observation itself to the last layer. How do I write that?

As below: three layers with names, two shortcuts beside them. Both end at the same value, so they merge in the order
in which they are listed, first the sum, then the concatenation. A chain is an ordinary `nn.Module`, so a training
loop of one's own goes as always. The task is small enough to know the best there is: walk to a goal on a grid, in as
few steps as possible.
"""

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical

from skipway import Chain, Dense, Shortcut, relu, softmax

SIDE, LONGEST = 6, 24
MOVES = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])  # up, down, left, right


def make() -> Chain:
    return Chain(
        stem=Dense(4 * SIDE, 64, relu),
        body=Dense(64, 64, relu),
        head=Dense(..., 4, softmax),
        wiring=[Shortcut("stem", "body"), Shortcut("input", "body", merge="cat")],
    )


def observe(place: Tensor, goal: Tensor) -> Tensor:
    """Row and column of the walker and of the goal, each one-hot: ``(N, 4 * SIDE)``."""
    return F.one_hot(torch.cat([place, goal], dim=-1), SIDE).flatten(1).float()


@torch.no_grad()
def walk(policy: Chain, walkers: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Let many walkers go at once, each from a random place to a random goal.

    Gives observations ``(T, N, 4 * SIDE)``, actions ``(T, N)``, who was still on the way ``(T, N)``, rewards
    ``(T, N)``, and the fewest steps there could have been, ``(N,)``. A step costs 1, one against a wall as well.
    """
    place, goal = torch.randint(SIDE, (2, walkers, 2))
    fewest = (place - goal).abs().sum(-1)
    observations, actions, walking = [], [], []
    for _ in range(LONGEST):
        observation = observe(place, goal)
        action = policy(observation).multinomial(1).squeeze(-1)
        on = (place != goal).any(-1)
        place = torch.where(on[:, None], (place + MOVES[action]).clamp(0, SIDE - 1), place)
        observations.append(observation)
        actions.append(action)
        walking.append(on)
    on = torch.stack(walking)
    return torch.stack(observations), torch.stack(actions), on, -on.float(), fewest


def main(updates: int = 150, walkers: int = 128) -> dict[str, float]:
    torch.manual_seed(0)
    policy = make()
    print(policy, "\n")
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)

    def mean_return() -> float:
        return walk(policy, 1000)[3].sum(0).mean().item()

    results = {"start": mean_return()}
    for update in range(1, updates + 1):
        observations, actions, on, rewards, _ = walk(policy, walkers)
        # what came after an action is what it can answer for
        to_come = rewards.flip(0).cumsum(0).flip(0)
        # how much better that was than usual, at this step: the mean takes out most of the noise and none of the signal
        mean = (to_come * on).sum(1, keepdim=True) / on.sum(1, keepdim=True).clamp(min=1)
        log_p = Categorical(probs=policy(observations)).log_prob(actions)
        loss = -(log_p * (to_come - mean))[on].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 25 == 0:
            print(f"update {update:4d}  mean return {rewards.sum(0).mean().item():6.2f}")

    results["end"] = mean_return()
    results["best"] = -walk(policy, 1000)[4].float().mean().item()
    print(f"\nmean return over 1,000 walks: {results['start']:.2f} at the start, {results['end']:.2f} now;", end=" ")
    print(f"the best there is: {results['best']:.2f}")
    with torch.no_grad():
        chances = policy(observe(torch.tensor([[0, 0]]), torch.tensor([[0, SIDE - 1]])))[0].tolist()
    shown = ", ".join(f"{word} {p:.2f}" for word, p in zip(("up", "down", "left", "right"), chances, strict=True))
    print(f"from the corner, with the goal at the right end of the row: {shown}")
    return results


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--updates", type=int, default=150)
    options.add_argument("--walkers", type=int, default=128)
    results = main(**vars(options.parse_args()))
