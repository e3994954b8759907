# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # selfevo in a notebook
#
# A small run of the SELF loop from Python: train the two skills on twelve annotated trajectories, let the model
# improve itself for two rounds on 24 prompts without answers, and look at every row and figure it left.
# Run it from the root of the repository. With so few rows the figures mean nothing; the calls are the real ones.

# %%
import selfevo

model = "HuggingFaceTB/SmolLM2-135M-Instruct"  # a hub id or a folder with a chat template

# %% [markdown]
# `selfevo.run` takes a YAML file, a dict or a configuration object. Keywords replace its keys. The same call goes on
# where a run was stopped.

# %%
run = selfevo.run("examples/config.yaml", model=model, output="runs/quickstart")

# %% [markdown]
# The results are typed. Each measured model has its accuracy with a 95 % interval, before and after refinement.

# %%
for measured in run.results.models:
    low, high = measured.direct.ci
    print(
        f"{measured.name}: direct {measured.direct.accuracy:.0%} ({low:.0%} to {high:.0%}), "
        f"refined {measured.refined.accuracy:.0%}"
    )

# %% [markdown]
# Every trajectory of a round is there, kept or rejected, with the reason.

# %%
for row in list(run.rows("round-1"))[:3]:
    print(f"prompt: {row.prompt}\nresponse: {row.response}\nfeedback: {row.feedback}\nrefinement: {row.refinement}")
    print("kept" if row.kept else f"rejected: {row.reason}", end="\n\n")

# %% [markdown]
# Ask the best model. It criticises its answer, and refines it where its verdict says "not qualified".

# %%
refiner = selfevo.Refiner(run.best)
[answer] = refiner.answer(["A crate holds 12 bottles. How many bottles are in 4 crates?"])
print(answer.text)
print("verdict:", answer.verdict.value)

# %% [markdown]
# Measure any model, by the same rule, on problems of your own.

# %%
found = selfevo.evaluate(run.best, "gsm8k", path="examples/eval.jsonl", count=12)
print(f"direct {found.models[0].direct.correct} of {found.models[0].direct.n}")
