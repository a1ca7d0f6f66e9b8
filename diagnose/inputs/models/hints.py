"""Ways out of a model file that cannot be opened by itself, as a user of the command can follow them."""

from __future__ import annotations

from diagnose.settings import printable

FACTORY = "name a function that makes it, `package.module:factory`, in place of the file"
TENSORS = "save the tensors alone: `torch.save(model.state_dict(), FILE)`"
HUB = (
    "nothing is fetched from the Hugging Face hub: download the model once, "
    "`hf download NAME --local-dir FOLDER`, and give the folder"
)
SAFETENSORS, TORCH, SCRIPT = "safetensors.torch.load_file", "torch.load", "torch.jit.load"


def factory(file: str, reader: str = TORCH, inside: str = "") -> str:
    """A function of the user's that makes a module of their own and fills it from a file, as one line of Python.

    Args:
        file: its name.
        reader: the function that reads it.
        inside: what leads from what is read to the tensors by name, such as ``["state_dict"]``.
    """
    path = repr(printable(file))
    load = f"model.load_state_dict({reader}({path}){inside})"
    if reader == SAFETENSORS:
        load = f"import safetensors.torch; {load}"
    return (
        "for a module of your own give `nets:load` in place of the file, where nets.py has, below your class Net, "
        f"`def load(): model = Net(); {load}; return model`"
    )


OF_A_SCRIPT = (
    "its class belongs to a script that ran as `__main__`, which no other program can import; there save the tensors "
    f"alone, `torch.save(model.state_dict(), 'weights.pt')`; {factory('weights.pt')}"
)
"""For a pickled object whose class cannot be imported anywhere else."""
