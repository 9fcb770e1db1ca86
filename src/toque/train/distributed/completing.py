"""DDP, of which a rank can take part in a step's exchange also when it could not do the step.

The other ranks wait for its gradients: a rank that runs out of memory gives zeros for those that it
has not sent, so that all come to the end of the step, hear of it, and do it again together. Private
parts of torch's DDP, which its own `join` is built on, are used in this file only.
"""

# No annotations as text: torch looks at those of its hook.
from typing import Any

import torch
from torch import Tensor, nn
from torch.futures import Future


class CompletableDDP(nn.parallel.DistributedDataParallel):
    """DistributedDataParallel that sums gradients, and counts what it has sent.

    begun: whether this step's exchanges before the forward pass are done
    """

    def __init__(self, network: nn.Module, *, unused_parameters: bool) -> None:
        device = next(network.parameters()).device
        super().__init__(
            network,
            device_ids=[device.index or 0] if device.type == "cuda" else None,
            find_unused_parameters=unused_parameters,
            # Gradients are views of what travels: one copy of them less.
            gradient_as_bucket_view=True,
        )
        self.begun = False
        self._sent: list[Future[Tensor]] = []
        # No method: torch would hold this object for ever.
        self.register_comm_hook(self._sent, _send)

    def begin(self) -> None:
        """A step begins."""
        self.begun = False
        self._sent.clear()

    def _pre_forward(self, *inputs: Any, **named: Any) -> Any:
        given = super()._pre_forward(*inputs, **named)  # type: ignore[no-untyped-call]
        self.begun = True
        return given

    def complete(self) -> None:
        """Give zeros for all gradients of the step that were not sent; then wrap the network anew.

        The other ranks' gradients are of no use after it, and neither is this object.
        """
        buckets = self.reducer._get_zeros_like_grad_buckets()
        for bucket in buckets[len(self._sent) :]:
            self.reducer._run_comm_hook(bucket)
        for sum_of_all in self._sent:
            sum_of_all.wait()


def _send(sent: list[Future[Tensor]], bucket: torch.distributed.GradBucket) -> Future[Tensor]:
    """Sum a bucket of gradients over the ranks."""
    work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
    sum_of_all: Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    sent.append(sum_of_all)
    return sum_of_all
