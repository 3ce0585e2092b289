"""The Hugging Face Hub as a store of runs: `worldlab push RUN hf:user/name`, `worldlab eval hf:user/name`."""

from __future__ import annotations

from worldlab import hookimpl


@hookimpl
def worldlab_register(register) -> None:
    register.store(
        "hf",
        "worldlab_hub.store:HubStore",
        config=None,
        summary="the Hugging Face Hub, or a server of its own that HF_ENDPOINT names",
    )
