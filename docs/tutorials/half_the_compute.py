# %% [markdown]
# # Half the compute
#
# For whoever samples a lot and can train once more: a network of several widths, a search for the width that each
# noise level needs, and images at half the multiply-adds. Training is cut short here, to half a minute;
# [Plans](../results/plans.md) has what full training gives.

# %%
import tempfile
from pathlib import Path

import denoisezoo as dz

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A network that can be used in part
#
# An *effort* is how much of the network a call uses. That of `slim_ddpm_digits` is its width; each has its own cost,
# and all share one set of weights.

# %%
slim = dz.info("slim_ddpm_digits").variant
for effort, cost in zip(slim.config.efforts, slim.costs, strict=True):
    print(f"width {effort}: {cost.macs:,} multiply-adds")

# %% [markdown]
# ## Train elastic
#
# The recipe says `effort: sandwich`: each step trains the full width, the smallest, and one between. 800 steps are the
# recipe's; leave `max_steps` out for them.

# %%
run = dz.train(
    "digits/slim",
    trainer={"max_steps": 4, "accelerator": "cpu", "default_root_dir": folder / "slim", "limit_val_batches": 0},
    data={"init_args": {"batch_size": 8}},
    samples={"every_n_steps": 0},
)

# %% [markdown]
# ## Search
#
# A table has the error of every width at every noise level, on held-out images and the same noise; nothing is
# sampled. Dynamic programming finds the exact front of cost and loss, and the best plan within each budget. A second
# budget is free.

# %%
walk = {"sampler": "dpmpp_2m", "steps": 6}
found = dz.search(run, budget=[0.5, 0.75], images=8, **walk)
print(found)

# %% [markdown]
# ## A plan is a staircase
#
# It gives an effort for each log-SNR, so that it serves any sampler and number of steps. It is a small JSON file.

# %%
plan = found.plan(0.5)
print(plan.to_json())
print([plan.effort(log_snr) for log_snr in (8, 4, 0, -4, -8)])  # from the image to noise

# %% [markdown]
# ## Sample with it
#
# The price confirms the budget, call by call; the same seed gives the same noise, so that both pictures can be laid
# side by side.

# %%
full, half = (dz.profile(run, counts_only=True, plan=chosen, **walk).rows()[-1] for chosen in (None, plan))
print(f"{half['macs_per_image'] / full['macs_per_image']:.2f} of the multiply-adds")
assert half["macs_per_image"] <= 0.5 * full["macs_per_image"]
print([call["effort"] for call in half["trajectory"]])
original = run.denoiser.sample(16, seed=3, **walk)
samples = run.denoiser.sample(16, seed=3, plan=plan, **walk)
samples

# %% [markdown]
# Whether the images are as good is measured, not assumed: the distance to real ones with the plan, with the full
# width, and with one width throughout, which a plan has to beat.

# %%
for name, chosen in (("full", None), ("plan", plan), ("half the width", "uniform:effort=0.5")):
    result = dz.evaluate(run, num=32, plan=chosen, **walk)
    print(f"{name:15} fd_pixels {result.metrics['fd_pixels']:.2f}")

# %% [markdown]
# ## Where to go next
#
# The same in the shell, evolution against measured latency, and which families can be slimmed: [plans](../plans.md).
# Networks with another choice, such as solver steps, are searched in the same way: [the gallery](../gallery/index.md)
# lists efforts. To ship one file for each effort: `denoisezoo export RUN --plan FILE --format onnx`, see
# [checkpoints](../interop.md).
