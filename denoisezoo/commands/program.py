"""The commands of the program, each imported when it is asked for, and what it says of itself."""

from __future__ import annotations

COMMANDS = {
    "list": ("denoisezoo.commands.list", "the zoo: name, family, input, params, MACs, efforts, paper"),
    "info": ("denoisezoo.commands.info", "one entry: variants, arguments with defaults, paper, costs per effort"),
    "train": ("denoisezoo.commands.train", "train a recipe; the same command again resumes"),
    "sample": ("denoisezoo.commands.sample", "images and a grid from a run folder or checkpoint"),
    "evaluate": ("denoisezoo.commands.evaluate", "metrics of a run, each with its card"),
    "profile": ("denoisezoo.commands.profile", "params, MACs, latency, memory; with a sampler, the whole trajectory"),
    "compare": ("denoisezoo.commands.compare", "train, sample, evaluate and price variants on equal terms; one report"),
    "search": ("denoisezoo.commands.search", "the best plan at a budget: how much of the network at each noise level"),
    "ema": ("denoisezoo.commands.ema", "averages of any length after training, swept against a metric"),
    "dashboard": ("denoisezoo.commands.dashboard", "lay out the W&B workspace of a project: a section per question"),
    "import": ("denoisezoo.commands.import_run", "a checkpoint of other code as a run: FORMAT:PATH"),
    "export": (
        "denoisezoo.commands.export",
        "a run for other code: safetensors, diffusers, onnx or pt2, with a model card",
    ),
    "study": ("denoisezoo.commands.study", "one question, one page: solvers, samplers, resolutions, memory, ..."),
    "claims": ("denoisezoo.commands.claims", "what the papers claim, what was measured here, and the verdict"),
    "completion": ("denoisezoo.commands.completion", "a script that completes commands in bash, zsh or fish"),
    "doctor": ("denoisezoo.commands.doctor", "what this machine and installation can do, and what is missing"),
}
"""Name -> (module, one-line help). A module has `add_arguments(parser)` and `run(args) -> status`, or, to parse its
own arguments, `run_raw(argv) -> status`."""

DESCRIPTION = "A zoo of efficient denoisers for diffusion models, compared on equal terms."
OPTIONS = {
    "-h, --help": "show this help; `denoisezoo COMMAND --help` shows that of a command",
    "--version": "show the version and the commit",
    "--debug": "show the traceback of an error",
}
