"""The rules on a machine of one's own: does the training fit, and how much can it serve?"""

from __future__ import annotations

from bot.decisions.verdict.facts import Facts, Reason, saying

CALIBRATE = saying("Run `finetune calibrate` on it: half a minute, best while nothing else runs.")
SMALLER = saying("Choose a smaller model, 4 bits (`quantization=nf4`), shorter rows or a larger machine.")
PRICE = saying("Say what an hour of a machine costs (usd_per_hour of the model in finetune.toml).")


def about_machine(facts: Facts) -> tuple[Reason, ...]:
    """What was trained has fitted."""
    machine, is_trained = facts.machine, facts.evidence.trained is not None
    if machine is None:
        return ()
    found = []
    if machine.too_large and not is_trained:
        found.append(Reason("memory", "no_go", machine.too_large, step=SMALLER))
    unknown = [
        "how long training takes is only guessed" if not (machine.knows_training_time or is_trained) else "",
        "how many requests it can answer is not known" if not machine.knows_serving_speed else "",
    ]
    if any(unknown):
        text = f"The speed of your own machine is not measured: {', and '.join(filter(None, unknown))}."
        found.append(Reason("machine", "unknown", text, step=CALIBRATE))
    if machine.machines is not None and machine.machines > 1 and not machine.has_price:
        text = f"This volume takes about {machine.machines:,} machines like yours, and nobody has said what one costs."
        found.append(Reason("machine", "unknown", text, step=PRICE))
    return tuple(found)
